"""DPO: SL-CAI optimized on the preference pairs, without a reward model."""

from pathlib import Path

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import new_rows
from assets.common.table_asset import table_asset
from assets.common.training import current_checkpoint, require, stage_checkpoint
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import Ingredients, TrainingOutcome
from cai_dagster.training.settings import DpoModelSettings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource

_TOO_FEW = "usable pairs in the split `preference`. Add prompts, or raise response_pairs.pairs_per_prompt"


@defaults_from(active_settings().dpo_model)
class DpoModelConfig(DpoModelSettings, dg.Config):
    """How the policy is optimized."""


@table_asset(code_version="1")
def dpo_model(
    context: dg.AssetExecutionContext,
    config: DpoModelConfig,
    preference_pairs: TableSnapshot,
    sl_cai_model: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """sl_cai_model optimized by DPO on the pairs of the split `preference`."""
    import polars as pl

    from cai_dagster.training.reward_modelling import ai_pairs, pairs_hash

    staged = new_rows(context, lake, [preference_pairs, sl_cai_model])
    base = current_checkpoint(sl_cai_model)
    pairs = preference_pairs.frame().filter(pl.col("split") == "preference")
    require("dpo_model", pairs.height, "min_pairs", config.min_pairs, _TOO_FEW)
    ingredients = Ingredients(
        asset="dpo_model",
        constitution_version=context.partition_key,
        base_model=base.model_id("float32"),
        rows=pairs_hash(ai_pairs(pairs)),
        settings=config.model_dump(),
        lake_snapshots={table.table: table.snapshot_id for table in (preference_pairs, sl_cai_model)},
        label_policy=pairs["label_policy"][0],
    )

    def train_into(folder: Path) -> TrainingOutcome:
        from cai_dagster.training.launch import DpoTraining, train
        from cai_dagster.training.policy_optimization import completion_pairs

        usable = completion_pairs(pairs, ChatFormat(base.folder, policy.chat_options), config.max_length)
        require("dpo_model", len(usable), "min_pairs", config.min_pairs, _TOO_FEW)
        training = DpoTraining(base.folder, usable, config, policy.chat_options, folder)
        return train(training, context.log.info)

    return stage_checkpoint(context, lake, staged, ingredients, pairs.height, train_into)
