"""The steps between the stages: how tables that no model writes are filled, and what a training is made of.

An asset runs a step on snapshots of the tables before it; a plan runs the same step on the rows that it has planned.
A step knows neither Dagster nor whether its inputs are committed.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cai_dagster.constitution.constitution import Constitution, load_constitution
from cai_dagster.disk import full_disk_named
from cai_dagster.home import Home
from cai_dagster.inputs.decontamination import evaluation_sets
from cai_dagster.inputs.human_preferences import RejectedPair, read_human_preferences
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.inputs.imported_pairs import import_pairs
from cai_dagster.inputs.prompts import RejectedPrompt, collect_prompts, prompt_row
from cai_dagster.inputs.settings import (
    DecontaminationSettings,
    HumanPreferencesSettings,
    PreferenceFilesSettings,
    PromptsSettings,
    Split,
)
from cai_dagster.judging.label_policies import REASONS, disregarded, label_pairs, policy_text, preference_rows
from cai_dagster.judging.settings import PreferencePairsSettings
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.queries import Rows
from cai_dagster.lake.scratch import scratch_folder, scratch_of, temporary_scratch
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.lake.staging import StagedRows
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.messages import Messages
from cai_dagster.models.weights import Weights
from cai_dagster.project import CONSTITUTIONS
from cai_dagster.recipes.response_pairs import FIRST_AND_LAST_RESPONSES, revision_pair
from cai_dagster.recipes.settings import PairSource
from cai_dagster.settings import Settings
from cai_dagster.training.checkpoints import Ingredients
from cai_dagster.training.reward_modelling import (
    LabelledPairs,
    ai_pairs,
    label_tables,
    preference_split,
    training_pairs,
    training_settings,
)
from cai_dagster.training.settings import (
    DpoModelSettings,
    RewardModelBase,
    RewardModelSettings,
    SftDatasetSettings,
    TrainedRounds,
    TrainingSettings,
)
from cai_dagster.training.supervised import answered_prompts, dialogues_of, examples_hash, supervised_examples

if TYPE_CHECKING:
    import polars as pl

ROWS_AT_ONCE = 10_000  # pairs with their judgements, or prompts with their rounds: so many texts are in memory

_REVISED_PROMPTS = {"prompts": "FROM prompts", "revision_rounds": "FROM revision_rounds"}
_JUDGED_PAIRS = {
    "response_pairs": "FROM response_pairs",
    "judgements": "FROM judgements",
    "prompts": "SELECT pair_id, prompts.* FROM response_pairs JOIN prompts USING (prompt_id)",
}
_PREFERENCE_PAIRS = {"preference_pairs": "FROM preference_pairs"}
_OF_HELD_OUT = "JOIN prompts USING (prompt_id) WHERE split = 'evaluation'"
_HELD_OUT = {
    "response_pairs": f"SELECT p.* FROM response_pairs p {_OF_HELD_OUT}",
    "judgements": f"SELECT j.* FROM judgements j JOIN response_pairs USING (pair_id) {_OF_HELD_OUT}",
    "prompts": f"SELECT pair_id, prompts.* FROM response_pairs {_OF_HELD_OUT}",
    "preference_pairs": "FROM preference_pairs WHERE split = 'evaluation'",
}


@dataclass(frozen=True)
class Work:
    """What a step reads and fills: the tables before it, committed or staged, and the rows of its own table."""

    home: Home
    lake: Lake
    version: str
    tables: Mapping[str, Rows]
    staged: StagedRows

    def frame(self, table: str) -> "pl.DataFrame":
        """All rows of a table that it reads, ordered by the table's key."""
        return self.lake.read(self.tables[table])

    def keep(self, row: dict[str, Any]) -> None:
        """Stage a row."""
        self.staged.add([row])

    def reject(self, row: RejectedPair | RejectedPrompt) -> None:
        """Set a row of a source aside."""
        self.staged.reject(row.source, row.reason, row.row)

    @property
    def snapshots(self) -> dict[str, int]:
        """The snapshot of each table that is committed."""
        return {name: rows.snapshot_id for name, rows in self.tables.items() if isinstance(rows, TableSnapshot)}


def fill_constitution(work: Work, file: Path) -> Constitution:
    """The principles of a constitution's file. Raises ConstitutionError with file, line and field."""
    constitution = load_constitution(file)
    work.staged.add(constitution.to_rows())
    return constitution


class Tokenizing(Protocol):
    """A language model, as far as a prompt has to fit it."""

    @property
    def max_model_len(self) -> int:
        """Context length in tokens."""
        ...

    def chat_format(self) -> ChatFormat:
        """Its tokenizer and template."""
        ...


def fill_prompts(
    work: Work,
    settings: PromptsSettings,
    decontamination: DecontaminationSettings,
    model: Tokenizing,
    report: ImportReport | None = None,
) -> int:
    """Every prompt of the sources once; how many duplicates were merged. `report` is told of every row read.

    Raises SourceFileError for a file that cannot be read or has no such columns.
    """
    chat_format = model.chat_format()
    longest = min(settings.longest_prompt, model.max_model_len)

    def tokens(messages: Messages) -> int:
        return len(chat_format.prompt_ids(messages))

    collected, rejected = collect_prompts(
        settings.model_copy(update={"longest_prompt": longest}),
        tokens,
        evaluation_sets(decontamination),
        forgotten_prompts(work.home),
        report,
    )
    work.staged.add(prompt_row(prompt, settings) for prompt in collected)
    for row in rejected:
        work.reject(row)
    return sum(len(prompt.sources) - 1 for prompt in collected)


def fill_human_preferences(
    work: Work,
    settings: HumanPreferencesSettings,
    splits: PromptsSettings,
    decontamination: DecontaminationSettings,
    report: ImportReport | None = None,
) -> None:
    """Every human-labelled pair of the sources once. Raises SourceFileError as `fill_prompts`."""
    sets = evaluation_sets(decontamination)
    read_human_preferences(settings, splits, work.keep, work.reject, sets, forgotten_prompts(work.home), report)


def fill_sft_dataset(work: Work, settings: SftDatasetSettings) -> int:
    """(x, y^n), or (x, y^i) of every round, for the prompts of the split `sft`; how many examples there are."""
    for part in work.lake.parts("prompt_id", ROWS_AT_ONCE, _REVISED_PROMPTS, **work.tables):
        work.staged.add_frame(supervised_examples(part["revision_rounds"], part["prompts"], Split.sft, settings.rounds))
    return work.staged.row_count


def fill_pairs_of_revisions(work: Work) -> None:
    """First response against last revision (direct principle feedback, Castricato et al. 2024)."""
    tables = {name: work.tables[name] for name in ("prompts", "initial_responses", "revision_rounds")}
    work.staged.add(revision_pair(row) for row in work.lake.stream(FIRST_AND_LAST_RESPONSES, **tables))


def fill_imported_pairs(work: Work, settings: PreferenceFilesSettings, report: ImportReport | None = None) -> int:
    """The pairs of preference files whose prompts are known; how many were left to the split `sft`.

    Raises SourceFileError as `fill_prompts`.
    """
    splits = dict(work.frame("prompts").select("prompt_id", "split").iter_rows())
    return import_pairs(settings, splits, work.keep, work.reject, forgotten_prompts(work.home), report)


def _judged_parts(work: Work, selects: Mapping[str, str]) -> "Iterator[dict[str, pl.DataFrame]]":
    """Pairs with their judgements and prompts, a part at a time; each prompt of a part once."""
    for part in work.lake.parts("pair_id", ROWS_AT_ONCE, selects, **work.tables):
        yield {**part, "prompts": part["prompts"].unique("prompt_id")}


def fill_preference_pairs(work: Work, settings: PreferencePairsSettings) -> dict[str, Any]:
    """Pairs with chosen, rejected and P(chosen); what was not kept, by reason."""
    not_kept: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
    for part in _judged_parts(work, _JUDGED_PAIRS):
        pairs, judgements, prompts = (part[table].lazy() for table in _JUDGED_PAIRS)
        work.staged.add_frame(preference_rows(label_pairs(pairs, judgements, settings), prompts).collect())
        not_kept.update(disregarded(pairs, judgements, settings))
    return {"label_policy": policy_text(settings), **not_kept}


def supervised_dialogues(work: Work) -> Iterator[Messages]:
    """What SL-CAI is trained on."""
    for part in work.lake.parts("prompt_id", ROWS_AT_ONCE, {"sft_dataset": "FROM sft_dataset"}, **work.tables):
        yield from dialogues_of(part["sft_dataset"].sort("prompt_id", "sample", "round").iter_rows(named=True))


def held_out_dialogues(work: Work) -> Iterator[Messages]:
    """The evaluation prompts with their last revisions, whose loss says whether SL-CAI has learned."""
    for part in work.lake.parts("prompt_id", ROWS_AT_ONCE, _REVISED_PROMPTS, **work.tables):
        last = supervised_examples(part["revision_rounds"], part["prompts"], Split.evaluation, TrainedRounds.final)
        yield from dialogues_of(last.iter_rows(named=True))


def sl_cai_ingredients(work: Work, base: Weights, settings: TrainingSettings) -> Ingredients:
    """What SL-CAI is made of: the base model, sft_dataset and the settings."""
    return Ingredients(
        asset="sl_cai_model",
        constitution_version=work.version,
        base_model=base.model_id("float32"),
        rows=examples_hash(supervised_dialogues(work)),
        settings=settings.model_dump(),
        lake_snapshots=work.snapshots,
    )


def teacher_dialogues(work: Work) -> Iterator[Messages]:
    """The feedback model's own answers, of the split `sft`."""
    tables = {"prompts": "FROM prompts", "teacher_responses": "FROM teacher_responses"}
    for part in work.lake.parts("prompt_id", ROWS_AT_ONCE, tables, **work.tables):
        yield from dialogues_of(answered_prompts(part["teacher_responses"], part["prompts"]).iter_rows(named=True))


def labelled_training_pairs(
    work: Work, settings: RewardModelSettings
) -> contextlib.AbstractContextManager[LabelledPairs]:
    """The pairs that a reward model is trained on: AI-labelled ones, and human-labelled ones where there are any."""
    return _in_a_file(work, _labelled_parts(work, settings))


def preference_training_pairs(work: Work) -> contextlib.AbstractContextManager[LabelledPairs]:
    """The pairs that DPO is trained on: those of preference_pairs."""
    parts = work.lake.parts("pair_id", ROWS_AT_ONCE, _PREFERENCE_PAIRS, **work.tables)
    return _in_a_file(work, (preference_split(ai_pairs(part["preference_pairs"])) for part in parts))


@contextlib.contextmanager
def _in_a_file(work: Work, frames: "Iterator[pl.DataFrame]") -> Generator[LabelledPairs]:
    with scratch_folder(scratch_of(work.home)) as folder:
        with full_disk_named(work.home.root, temporary_scratch()):
            pairs = LabelledPairs.written(frames, folder / "pairs")
        yield pairs


def _labelled_parts(work: Work, settings: RewardModelSettings) -> "Iterator[pl.DataFrame]":
    parts = work.lake.parts
    if settings.principle_conditioned:
        constitution = {"constitution": work.frame("constitution")}
        for part in _judged_parts(work, _JUDGED_PAIRS):
            yield training_pairs({**constitution, **part}, settings)
    else:
        for part in parts("pair_id", ROWS_AT_ONCE, _PREFERENCE_PAIRS, **work.tables):
            yield training_pairs(part, settings)
    if "human_preferences" in work.tables and settings.human_weight:
        for part in parts("pair_id", ROWS_AT_ONCE, {"human_preferences": "FROM human_preferences"}, **work.tables):
            yield training_pairs(part, settings)


def held_out_parts(work: Work) -> "Iterator[dict[str, pl.DataFrame]]":
    """What a reward model is evaluated on, a part at a time: all tables of some held-out pairs, or people's pairs."""
    constitution = work.frame("constitution")
    for part in _judged_parts(work, _HELD_OUT):
        yield {**part, "constitution": constitution}
    if "human_preferences" in work.tables:
        people = {"human_preferences": "FROM human_preferences WHERE split = 'evaluation'"}
        yield from work.lake.parts("pair_id", ROWS_AT_ONCE, people, **work.tables)


def reward_model_ingredients(
    work: Work, base: Weights, settings: RewardModelSettings, pairs: LabelledPairs
) -> Ingredients:
    """What the reward model is made of: the weights it starts from, its training pairs and the settings."""
    return Ingredients(
        asset="reward_model",
        constitution_version=work.version,
        base_model=base.model_id("float32"),
        rows=pairs.hash(),
        settings=training_settings(settings, with_people=pairs.labelled_by()["human_pairs"] > 0),
        lake_snapshots=work.snapshots,
        label_policy=pairs.label_policy(),
    )


def dpo_ingredients(work: Work, base: Weights, settings: DpoModelSettings, pairs: LabelledPairs) -> Ingredients:
    """What the policy of DPO is made of: SL-CAI, the pairs and the settings."""
    return Ingredients(
        asset="dpo_model",
        constitution_version=work.version,
        base_model=base.model_id("float32"),
        rows=pairs.hash(),
        settings=settings.model_dump(),
        lake_snapshots=work.snapshots,
        label_policy=pairs.label_policy(),
    )


@dataclass(frozen=True)
class Step:
    """How a plan fills a table that no model writes: the tables that the step reads, and the step itself."""

    reads: Callable[[Settings], tuple[str, ...]]
    fill: Callable[[Work, Settings, Tokenizing], object]


def _fill_given_pairs(work: Work, settings: Settings, _: Tokenizing) -> None:
    if settings.response_pairs.source == PairSource.revisions:
        fill_pairs_of_revisions(work)
    else:
        fill_imported_pairs(work, settings.response_pairs)


def _given_pairs_read(settings: Settings) -> tuple[str, ...]:
    revised = settings.response_pairs.source == PairSource.revisions
    return ("prompts", "initial_responses", "revision_rounds") if revised else ("prompts",)


STEPS = {
    "constitution": Step(
        lambda _: (),
        lambda work, _settings, _model: fill_constitution(work, CONSTITUTIONS / f"{work.version}.yaml"),
    ),
    "prompts": Step(lambda _: (), lambda work, s, model: fill_prompts(work, s.prompts, s.decontamination, model)),
    "human_preferences": Step(
        lambda _: (), lambda work, s, _: fill_human_preferences(work, s.human_preferences, s.prompts, s.decontamination)
    ),
    "sft_dataset": Step(
        lambda _: ("revision_rounds", "prompts"), lambda work, s, _: fill_sft_dataset(work, s.sft_dataset)
    ),
    "response_pairs": Step(_given_pairs_read, _fill_given_pairs),
    "preference_pairs": Step(
        lambda _: ("response_pairs", "judgements", "prompts"),
        lambda work, s, _: fill_preference_pairs(work, s.preference_pairs),
    ),
}
"""The step of each table that no model writes; of response_pairs, where no pair is sampled."""


@dataclass(frozen=True)
class Training:
    """How a plan finds the checkpoint that a run would find or train.

    `most_rows` is a SELECT of the rows that it is trained on at most; `minimum` the setting that says how many there
    have to be, and its value.
    """

    reads: Callable[[Settings], tuple[str, ...]]
    ingredients: Callable[[Work, Weights, Settings], Ingredients]
    most_rows: str
    minimum: Callable[[Settings], tuple[str, int]]
    starts_from_sl_cai_model: Callable[[Settings], bool] = field(default=lambda _: False)


def _reward_model(work: Work, base: Weights, settings: Settings) -> Ingredients:
    with labelled_training_pairs(work, settings.reward_model) as pairs:
        return reward_model_ingredients(work, base, settings.reward_model, pairs)


TRAININGS = {
    "sl_cai_model": Training(
        lambda _: ("sft_dataset",),
        lambda work, base, s: sl_cai_ingredients(work, base, s.sl_cai_model),
        "SELECT 1 FROM sft_dataset",
        lambda s: ("sft_dataset.min_rows", s.sft_dataset.min_rows),
    ),
    "reward_model": Training(
        lambda s: (*label_tables(s.reward_model), "human_preferences"),
        _reward_model,
        "SELECT 1 FROM response_pairs JOIN prompts USING (prompt_id) WHERE split = 'preference'",
        lambda s: ("reward_model.min_pairs", s.reward_model.min_pairs),
        lambda s: s.reward_model.base == RewardModelBase.sl_cai_model,
    ),
}
