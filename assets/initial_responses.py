"""First responses y^0 of the helpful policy. They know no constitution, so a new version costs nothing here."""

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import run_stage
from assets.common.table_asset import table_asset
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.plan.stages import initial_responses_stage
from cai_dagster.recipes.settings import InitialResponsesSettings
from cai_dagster.settings import active_settings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().initial_responses)
class InitialResponsesConfig(InitialResponsesSettings, dg.Config):
    """How first responses y^0 are drawn."""


@table_asset(code_version="1")
def initial_responses(
    context: dg.AssetExecutionContext,
    config: InitialResponsesConfig,
    prompts: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """The policy's own answers to each prompt, before any principle has been applied."""
    stage = initial_responses_stage(config)
    return run_stage(context, lake, policy, stage, {"prompts": prompts})
