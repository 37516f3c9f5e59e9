"""What each training is made of: its rows, a part at a time, and the ingredients that name its checkpoint.

An asset trains on snapshots of the tables; a plan finds the checkpoint of the rows that it has planned.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cai_dagster.hashing import content_hash
from cai_dagster.inputs.settings import Split
from cai_dagster.models.messages import Messages
from cai_dagster.models.weights import Weights
from cai_dagster.plan.work import JUDGED_PAIRS, Work
from cai_dagster.settings import Settings
from cai_dagster.training.checkpoints import Ingredients
from cai_dagster.training.policy_optimization import RewardReading
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
    RlaifModelSettings,
    TrainedRounds,
    TrainingSettings,
)
from cai_dagster.training.supervised import (
    REVISED_PROMPTS,
    answered_prompts,
    dialogues_of,
    examples_hash,
    supervised_examples,
)

if TYPE_CHECKING:
    import polars as pl

_PREFERENCE_PAIRS = {"preference_pairs": "FROM preference_pairs"}
_OF_HELD_OUT = "JOIN prompts USING (prompt_id) WHERE split = 'evaluation'"
_HELD_OUT = {
    "response_pairs": f"SELECT p.* FROM response_pairs p {_OF_HELD_OUT}",
    "judgements": f"SELECT j.* FROM judgements j JOIN response_pairs USING (pair_id) {_OF_HELD_OUT}",
    "prompts": f"SELECT pair_id, prompts.* FROM response_pairs {_OF_HELD_OUT}",
    "preference_pairs": "FROM preference_pairs WHERE split = 'evaluation'",
}


def supervised_dialogues(work: Work) -> Iterator[Messages]:
    """What SL-CAI is trained on."""
    for part in work.parts("prompt_id", {"sft_dataset": "FROM sft_dataset"}):
        yield from dialogues_of(part["sft_dataset"].sort("prompt_id", "sample", "round").iter_rows(named=True))


def held_out_dialogues(work: Work) -> Iterator[Messages]:
    """The evaluation prompts with their last revisions, whose loss says whether SL-CAI has learned."""
    for part in work.parts("prompt_id", REVISED_PROMPTS):
        last = supervised_examples(part["revision_rounds"], part["prompts"], Split.evaluation, TrainedRounds.final)
        yield from dialogues_of(last.iter_rows(named=True))


def sl_cai_ingredients(work: Work, base: Weights, settings: TrainingSettings) -> Ingredients:
    """What SL-CAI is made of: the base model, sft_dataset and the settings."""
    rows = examples_hash(supervised_dialogues(work))
    return _ingredients(work, "sl_cai_model", base, rows, settings.model_dump())


def teacher_dialogues(work: Work) -> Iterator[Messages]:
    """The feedback model's own answers, of the split `sft`."""
    tables = {"prompts": "FROM prompts", "teacher_responses": "FROM teacher_responses"}
    for part in work.parts("prompt_id", tables):
        yield from dialogues_of(answered_prompts(part["teacher_responses"], part["prompts"]).iter_rows(named=True))


def teacher_ingredients(work: Work, base: Weights, settings: TrainingSettings) -> Ingredients:
    """What teacher_sft_model is made of: the base model, the feedback model's answers and the settings."""
    rows = examples_hash(teacher_dialogues(work))
    return _ingredients(work, "teacher_sft_model", base, rows, settings.model_dump())


def labelled_training_pairs(
    work: Work, settings: RewardModelSettings
) -> contextlib.AbstractContextManager[LabelledPairs]:
    """The pairs that a reward model is trained on: AI-labelled ones, and human-labelled ones where there are any."""
    return _in_a_file(work, _labelled_parts(work, settings))


def preference_training_pairs(work: Work) -> contextlib.AbstractContextManager[LabelledPairs]:
    """The pairs that DPO is trained on: those of preference_pairs."""
    parts = work.parts("pair_id", _PREFERENCE_PAIRS)
    return _in_a_file(work, (preference_split(ai_pairs(part["preference_pairs"])) for part in parts))


@contextlib.contextmanager
def _in_a_file(work: Work, frames: "Iterator[pl.DataFrame]") -> Generator[LabelledPairs]:
    with work.scratch() as folder:
        yield LabelledPairs.written(frames, folder / "pairs")


def _labelled_parts(work: Work, settings: RewardModelSettings) -> "Iterator[pl.DataFrame]":
    if settings.principle_conditioned:
        constitution = {"constitution": work.frame("constitution")}
        for part in work.judged_parts(JUDGED_PAIRS):
            yield training_pairs({**constitution, **part}, settings)
    else:
        for part in work.parts("pair_id", _PREFERENCE_PAIRS):
            yield training_pairs(part, settings)
    if "human_preferences" in work.tables and settings.human_weight:
        for part in work.parts("pair_id", {"human_preferences": "FROM human_preferences"}):
            yield training_pairs(part, settings)


def held_out_parts(work: Work) -> "Iterator[dict[str, pl.DataFrame]]":
    """What a reward model is evaluated on, a part at a time: all tables of some held-out pairs, or people's pairs."""
    constitution = work.frame("constitution")
    for part in work.judged_parts(_HELD_OUT):
        yield {**part, "constitution": constitution}
    if "human_preferences" in work.tables:
        people = {"human_preferences": "FROM human_preferences WHERE split = 'evaluation'"}
        yield from work.parts("pair_id", people)


def reward_model_ingredients(
    work: Work, base: Weights, settings: RewardModelSettings, pairs: LabelledPairs
) -> Ingredients:
    """What the reward model is made of: the weights it starts from, its training pairs and the settings."""
    read = training_settings(settings, with_people=pairs.labelled_by()["human_pairs"] > 0)
    return _ingredients(work, "reward_model", base, pairs.hash(), read, pairs.label_policy())


def dpo_ingredients(work: Work, base: Weights, settings: DpoModelSettings, pairs: LabelledPairs) -> Ingredients:
    """What the policy of DPO is made of: SL-CAI, the pairs and the settings."""
    return _ingredients(work, "dpo_model", base, pairs.hash(), settings.model_dump(), pairs.label_policy())


def rlaif_prompts(work: Work) -> Iterator[Messages]:
    """What RLAIF answers: the prompts of the split `preference`."""
    for part in work.parts("prompt_id", {"prompts": "FROM prompts WHERE split = 'preference'"}):
        yield from dialogues_of(part["prompts"].iter_rows(named=True))


def rlaif_ingredients(
    work: Work, base: Weights, settings: RlaifModelSettings, judge_key: str, reading: RewardReading
) -> Ingredients:
    """What the policy of RLAIF is made of: SL-CAI, the prompts, the reward model and the settings."""
    principles = [one.id for one in reading.principles.principles] if reading.principles else []
    rows = content_hash([examples_hash(rlaif_prompts(work)), judge_key, *principles])
    drawn_by = "vllm" if settings.draws_with_vllm else "transformers"
    return _ingredients(work, "rlaif_model", base, rows, {**settings.model_dump(), "generation": drawn_by})


def _ingredients(
    work: Work, asset: str, base: Weights, rows: str, settings: dict[str, Any], label_policy: str | None = None
) -> Ingredients:
    """`rows` is the hash of what is trained on; weights are trained in float32."""
    return Ingredients(
        asset=asset,
        constitution_version=work.version,
        base_model=base.model_id("float32"),
        rows=rows,
        settings=settings,
        lake_snapshots=work.snapshots,
        label_policy=label_policy,
    )


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
