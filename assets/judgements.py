"""What the feedback model says of each pair: evidence, kept raw."""

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import run_stage
from assets.common.table_asset import table_asset
from cai_dagster.constitution.constitution import Constitution
from cai_dagster.judging.settings import JudgementsSettings
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.plan.stages import judgements_stage
from cai_dagster.settings import active_settings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().judgements)
class JudgementsConfig(JudgementsSettings, dg.Config):
    """How the feedback model is asked."""


@table_asset(code_version="1")
def judgements(
    context: dg.AssetExecutionContext,
    config: JudgementsConfig,
    constitution: TableSnapshot,
    prompts: TableSnapshot,
    response_pairs: TableSnapshot,
    feedback_model: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Pair × principle × order: log P(A) and log P(B)."""
    stage = judgements_stage(Constitution.from_rows(constitution.frame().to_dicts()), config)
    tables = {"prompts": prompts, "response_pairs": response_pairs}
    return run_stage(context, lake, feedback_model, stage, tables)
