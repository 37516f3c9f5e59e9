"""How tables that no model writes are filled.

An asset runs a step on snapshots of the tables before it; a plan runs the same step on the rows that it has planned.
A step knows neither Dagster nor whether its inputs are committed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cai_dagster.constitution.constitution import Constitution, load_constitution
from cai_dagster.inputs.decontamination import evaluation_sets
from cai_dagster.inputs.human_preferences import read_human_preferences
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.inputs.imported_pairs import import_pairs
from cai_dagster.inputs.prompts import Prompt, prompt_row, read_prompts
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
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.messages import Messages
from cai_dagster.plan.work import JUDGED_PAIRS, Work
from cai_dagster.project import CONSTITUTIONS
from cai_dagster.recipes.response_pairs import FIRST_AND_LAST_RESPONSES, revision_pair
from cai_dagster.recipes.settings import PairSource
from cai_dagster.settings import Settings
from cai_dagster.training.settings import SftDatasetSettings
from cai_dagster.training.supervised import REVISED_PROMPTS, supervised_examples


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

    duplicates = 0

    def keep(prompt: Prompt) -> None:
        nonlocal duplicates
        duplicates += len(prompt.sources) - 1
        work.keep(prompt_row(prompt, settings))

    fitting = settings.model_copy(update={"longest_prompt": longest})
    sets, forgotten = evaluation_sets(decontamination), forgotten_prompts(work.home)
    with work.scratch() as folder:
        read_prompts(fitting, tokens, keep, work.reject, sets, forgotten, report, folder)
    return duplicates


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
    for part in work.parts("prompt_id", REVISED_PROMPTS):
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
    prompts = work.lake.query("SELECT prompt_id, split FROM prompts", prompts=work.tables["prompts"])
    splits: dict[str, str] = dict(prompts.iter_rows())
    return import_pairs(settings, splits, work.keep, work.reject, forgotten_prompts(work.home), report)


def fill_preference_pairs(work: Work, settings: PreferencePairsSettings) -> dict[str, Any]:
    """Pairs with chosen, rejected and P(chosen); what was not kept, by reason."""
    not_kept: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
    for part in work.judged_parts(JUDGED_PAIRS):
        pairs, judgements, prompts = (part[table].lazy() for table in JUDGED_PAIRS)
        work.staged.add_frame(preference_rows(label_pairs(pairs, judgements, settings), prompts).collect())
        not_kept.update(disregarded(pairs, judgements, settings))
    return {"label_policy": policy_text(settings), **not_kept}


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
