"""Pairs of completions for the feedback model to compare."""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.launchpad import defaults_from
from assets.common.stage import new_rows, run_stage, stage_rows
from assets.common.table_asset import table_asset
from assets.common.training import current_checkpoint
from cai_dagster.home import Home
from cai_dagster.inputs.files import SourceFileError
from cai_dagster.inputs.imported_pairs import import_pairs
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.plan.stages import response_pairs_stage
from cai_dagster.recipes.response_pairs import FIRST_AND_LAST_RESPONSES, revision_pair
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
    if config.source == PairSource.revisions:
        revised = {"prompts": prompts, "initial_responses": initial_responses, "revision_rounds": revision_rounds}
        staged = new_rows(context, lake)
        staged.add(revision_pair(row) for row in lake.open().stream(FIRST_AND_LAST_RESPONSES, **revised))
        return stage_rows(context, lake, staged)
    if config.source == PairSource.imported:
        return _imported(context, config, prompts, lake)
    stage = response_pairs_stage(config)
    model = policy.language_model(context.log.info, current_checkpoint(sl_cai_model))
    return run_stage(context, lake, model, stage, {"prompts": prompts}, policy.rows_in_flight)


def _imported(
    context: dg.AssetExecutionContext, config: ResponsePairsConfig, prompts: TableSnapshot, lake: LakeResource
) -> dg.MaterializeResult:
    """The pairs of a preference data set; whom it prefers is not looked at."""
    splits = dict(prompts.frame().select("prompt_id", "split").iter_rows())
    try:
        imported = import_pairs(config, splits, forgotten_prompts(Home.from_environment()))
    except SourceFileError as error:
        raise failure_of(error) from None
    staged = new_rows(context, lake)
    staged.add(imported.rows)
    for pair in imported.rejected:
        staged.reject(pair.source, pair.reason, pair.row)
    return stage_rows(context, lake, staged, {"of_sft_prompts": imported.of_sft_prompts}, config.max_rejected_share)
