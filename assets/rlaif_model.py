"""RLAIF: SL-CAI optimized against the reward model, as RLHF proceeds (Bai et al. 2022, section 4.2)."""

from pathlib import Path

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import new_rows
from assets.common.table_asset import table_asset
from assets.common.training import checkpoint_in_use, current_checkpoint, require, stage_checkpoint
from cai_dagster.hashing import content_hash
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import Ingredients, TrainingOutcome
from cai_dagster.training.settings import RlaifModelSettings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource

_TOO_FEW = "prompts of the split `preference` that fit max_length with max_tokens. Add prompts, or raise max_length"


@defaults_from(active_settings().rlaif_model)
class RlaifModelConfig(RlaifModelSettings, dg.Config):
    """How the policy is optimized."""


@table_asset(code_version="1")
def rlaif_model(
    context: dg.AssetExecutionContext,
    config: RlaifModelConfig,
    constitution: TableSnapshot,
    prompts: TableSnapshot,
    reward_model: TableSnapshot,
    sl_cai_model: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """sl_cai_model optimized by RLOO for the reward of its own answers to the prompts of the split `preference`."""
    import polars as pl

    from cai_dagster.training.policy_optimization import prompts_hash, reward_reading

    staged = new_rows(context, lake, [constitution, prompts, reward_model, sl_cai_model])
    base = current_checkpoint(sl_cai_model)
    judge = checkpoint_in_use(reward_model)
    reading = reward_reading(judge, constitution.frame())
    principles = [one.id for one in reading.principles.principles] if reading.principles else []
    answered = prompts.frame().filter(pl.col("split") == "preference")
    ingredients = Ingredients(
        asset="rlaif_model",
        constitution_version=context.partition_key,
        base_model=base.model_id("float32"),
        rows=content_hash([prompts_hash(answered), judge["checkpoint_key"], *principles]),
        settings={**config.model_dump(), "generation": "vllm" if config.draws_with_vllm else "transformers"},
        lake_snapshots={
            table.table: table.snapshot_id for table in (constitution, prompts, reward_model, sl_cai_model)
        },
    )

    def train(folder: Path) -> TrainingOutcome:
        from cai_dagster.training.launch import RlaifTraining
        from cai_dagster.training.launch import train as run_training
        from cai_dagster.training.policy_optimization import training_prompts

        chat_format = ChatFormat(base.folder, policy.chat_options)
        usable = training_prompts(answered, chat_format, config.max_length, config.max_tokens)
        require("rlaif_model", len(usable), "min_prompts", config.min_prompts, _TOO_FEW)
        training = RlaifTraining(base.folder, usable, Path(judge["path"]), reading, config, policy.chat_options, folder)
        return run_training(training, context.log.info)

    return stage_checkpoint(context, lake, staged, ingredients, max(1, answered.height), train)
