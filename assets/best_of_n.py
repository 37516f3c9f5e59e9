"""Best of n: the reward model picks among samples of SL-CAI. The cheap policy improvement: no training."""

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import run_stage, stage_rows, work_of
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

    from cai_dagster.recipes.best_of_n import ANSWERED_CANDIDATES
    from cai_dagster.recipes.best_of_n import best_of_n as pick
    from cai_dagster.training.policy_optimization import AnswerScorer

    work = work_of(context, lake, best_of_n_candidates, prompts)
    checkpoint = checkpoint_in_use(reward_model)
    total = work.lake.count(ANSWERED_CANDIDATES, **work.tables)
    rewards: list[pl.DataFrame] = []
    with ACCELERATOR.reserved(context.log.info):
        scorer = AnswerScorer(checkpoint, constitution.frame(), total, context.log.info)
        for part in work.parts("prompt_id", {"answers": ANSWERED_CANDIDATES}):
            picked = pick(scorer.scored(part["answers"]))
            picked = picked.with_columns(pl.lit(checkpoint["checkpoint_key"]).alias("reward_model"))
            work.staged.add_frame(picked)
            rewards.append(picked.select("reward", "mean_reward"))
    means = pl.concat(rewards).mean().row(0, named=True) if rewards else {}
    return stage_rows(context, lake, work.staged, means)
