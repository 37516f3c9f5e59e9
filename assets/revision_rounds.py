"""Critique and revision: y^1 … y^n of every first response under principles drawn from the constitution."""

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import run_stage
from assets.common.table_asset import table_asset
from cai_dagster.constitution.constitution import Constitution
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.plan.stages import revision_rounds_stage
from cai_dagster.recipes.settings import RevisionRoundsSettings
from cai_dagster.settings import active_settings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().revision_rounds)
class RevisionRoundsConfig(RevisionRoundsSettings, dg.Config):
    """How critiques and revisions are drawn."""


@table_asset(code_version="1")
def revision_rounds(
    context: dg.AssetExecutionContext,
    config: RevisionRoundsConfig,
    constitution: TableSnapshot,
    prompts: TableSnapshot,
    initial_responses: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Prompt × round: the principle drawn, the critique, the revision."""
    stage = revision_rounds_stage(Constitution.from_rows(constitution.frame().to_dicts()), config)
    tables = {"prompts": prompts, "initial_responses": initial_responses}
    return run_stage(context, lake, policy, stage, tables)
