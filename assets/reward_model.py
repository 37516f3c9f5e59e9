"""The reward model, trained on soft labels, and its evaluation on prompts it never saw."""

from pathlib import Path

import dagster as dg

from assets.launchpad import defaults_from
from assets.partitions import constitution_versions
from assets.stage import new_rows, stage_rows
from assets.training import current_checkpoint, stage_checkpoint
from cai_dagster.chat_format import ChatFormat
from cai_dagster.checkpoints import Ingredients, TrainingOutcome
from cai_dagster.settings import RewardModelBase, RewardModelSettings, active_settings
from cai_dagster.snapshots import TableSnapshot
from resources.accelerator import ACCELERATOR
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().reward_model)
class RewardModelConfig(RewardModelSettings, dg.Config):
    """How the reward model is trained."""


@dg.asset(
    partitions_def=constitution_versions,
    group_name="reward_modelling",
    kinds={"pytorch", "huggingface"},
    owners=["team:post-training"],
    code_version="1",
    pool="gpu",
)
def reward_model(
    context: dg.AssetExecutionContext,
    config: RewardModelConfig,
    preference_pairs: TableSnapshot,
    sl_cai_model: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """A sequence classifier with one output, trained on P(chosen) of the pairs in the split `preference`."""
    import polars as pl

    from cai_dagster.reward_modelling import pairs_hash

    base = current_checkpoint(sl_cai_model) if config.base == RewardModelBase.sl_cai_model else policy.weights()
    pairs = preference_pairs.frame().filter(pl.col("split") == "preference")
    _require_pairs(pairs.height, config.min_pairs)
    ingredients = Ingredients(
        asset="reward_model",
        constitution_version=context.partition_key,
        base_model=base.model_id("float32"),
        rows=pairs_hash(pairs),
        settings=config.model_dump(),
        lake_snapshots={table.table: table.snapshot_id for table in (preference_pairs, sl_cai_model)},
        label_policy=pairs["label_policy"][0],
    )

    def train(folder: Path) -> TrainingOutcome:
        from cai_dagster.reward_modelling import token_pairs
        from cai_dagster.trainers import train_reward_model

        usable = token_pairs(pairs, ChatFormat(base.folder, policy.trust_remote_code), config.max_length)
        _require_pairs(len(usable), config.min_pairs)
        report = context.log.info
        return train_reward_model(base.folder, usable, config, policy.trust_remote_code, report, folder)

    return stage_checkpoint(context, lake, ingredients, pairs.height, train)


def _require_pairs(usable: int, minimum: int) -> None:
    if usable < minimum:
        raise dg.Failure(
            f"reward_model: {usable} usable pairs in the split `preference`, and min_pairs asks for {minimum}. Add "
            "prompts or raise response_pairs.pairs_per_prompt; a reward model of so few pairs would mean nothing.",
            allow_retries=False,
        )


@dg.asset(
    partitions_def=constitution_versions,
    group_name="reward_modelling",
    kinds={"pytorch", "ducklake"},
    owners=["team:post-training"],
    code_version="1",
    pool="gpu",
)
def reward_model_evaluation(
    context: dg.AssetExecutionContext,
    reward_model: TableSnapshot,
    preference_pairs: TableSnapshot,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """The reward model against the label probabilities of evaluation prompts, beside trivial baselines."""
    from cai_dagster.plots import calibration_plot
    from cai_dagster.reward_modelling import evaluate_checkpoint

    checkpoint = reward_model.frame().row(0, named=True)
    staged = new_rows(context, lake)
    with ACCELERATOR.reserved(context.log.info):
        scores = evaluate_checkpoint(checkpoint, preference_pairs.frame(), context.log.info)
    if scores is None:
        raise dg.Failure(
            "reward_model_evaluation: no preference pair belongs to an evaluation prompt. Add prompts, or lower "
            "prompts.sft_share and prompts.preference_share.",
            allow_retries=False,
        )
    staged.add([{"checkpoint_key": checkpoint["checkpoint_key"], **scores.to_row()}])
    plot = dg.MetadataValue.md(calibration_plot(scores.predicted, scores.label))
    return stage_rows(context, lake, staged, {**scores.to_row(), "calibration": plot})
