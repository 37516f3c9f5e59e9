"""Best of n: the reward model picks among samples of SL-CAI. The cheap policy improvement: no training."""

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import new_rows, run_stage, stage_rows
from assets.common.table_asset import table_asset
from assets.common.training import checkpoint_in_use, current_checkpoint
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.plan.stages import best_of_n_candidates_stage
from cai_dagster.recipes.settings import BestOfNSettings
from cai_dagster.settings import active_settings
from resources.accelerator import ACCELERATOR
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().best_of_n_candidates)
class BestOfNCandidatesConfig(BestOfNSettings, dg.Config):
    """How the candidates are sampled."""


@table_asset(code_version="1")
def best_of_n_candidates(
    context: dg.AssetExecutionContext,
    config: BestOfNCandidatesConfig,
    prompts: TableSnapshot,
    sl_cai_model: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """The n completions of sl_cai_model to each preference and evaluation prompt."""
    stage = best_of_n_candidates_stage(config)
    return run_stage(context, lake, policy, stage, {"prompts": prompts}, current_checkpoint(sl_cai_model))


@table_asset(code_version="1")
def best_of_n(
    context: dg.AssetExecutionContext,
    best_of_n_candidates: TableSnapshot,
    constitution: TableSnapshot,
    prompts: TableSnapshot,
    reward_model: TableSnapshot,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """The candidate of each prompt that the reward model prefers, beside what a random one would have had."""
    import polars as pl

    from cai_dagster.recipes.best_of_n import best_of_n as pick
    from cai_dagster.training.policy_optimization import rewards_of

    staged = new_rows(context, lake, [best_of_n_candidates, prompts])
    checkpoint = checkpoint_in_use(reward_model)
    candidates = best_of_n_candidates.frame()
    with ACCELERATOR.reserved(context.log.info):
        rewards = rewards_of(checkpoint, candidates, prompts.frame(), constitution.frame(), context.log.info)
    picked = pick(candidates, rewards).with_columns(pl.lit(checkpoint["checkpoint_key"]).alias("reward_model"))
    means = picked.select(pl.col("reward", "mean_reward").mean()).row(0, named=True)
    staged.add_frame(picked)
    return stage_rows(context, lake, staged, {name: value for name, value in means.items() if value is not None})
