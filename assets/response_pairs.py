"""Pairs of completions for the feedback model to compare."""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.launchpad import defaults_from
from assets.common.stage import run_stage, sources_metadata, stage_rows, work_of
from assets.common.table_asset import table_asset
from assets.common.training import current_checkpoint
from cai_dagster.inputs.files import SourceFileError
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.plan.stages import response_pairs_stage
from cai_dagster.recipes.settings import PairSource, ResponsePairsSettings
from cai_dagster.settings import active_settings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().response_pairs)
class ResponsePairsConfig(ResponsePairsSettings, dg.Config):
    """Where the two completions of a pair come from."""


@table_asset(code_version="1")
def response_pairs(
    context: dg.AssetExecutionContext,
    config: ResponsePairsConfig,
    prompts: TableSnapshot,
    initial_responses: TableSnapshot,
    revision_rounds: TableSnapshot,
    sl_cai_model: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Two completions of each preference and evaluation prompt."""
    from cai_dagster.plan.steps import fill_imported_pairs, fill_pairs_of_revisions

    if config.source == PairSource.revisions:
        work = work_of(context, lake, prompts, initial_responses, revision_rounds)
        fill_pairs_of_revisions(work)
        return stage_rows(context, lake, work.staged)
    if config.source == PairSource.imported:
        work, imported = work_of(context, lake, prompts), ImportReport()
        try:
            of_sft_prompts = fill_imported_pairs(work, config, imported)
        except SourceFileError as error:
            raise failure_of(error) from None
        return stage_rows(
            context, lake, work.staged, {"of_sft_prompts": of_sft_prompts, **sources_metadata(context, imported)}
        )
    stage = response_pairs_stage(config)
    return run_stage(context, lake, policy, stage, {"prompts": prompts}, current_checkpoint(sl_cai_model))
