"""Preference pairs: the label policy applied to the judgements. No model, no GPU."""

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import stage_rows, work_of
from assets.common.table_asset import table_asset
from cai_dagster.judging.settings import PreferencePairsSettings
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.settings import active_settings
from resources.lake import LakeResource


@defaults_from(active_settings().preference_pairs)
class PreferencePairsConfig(PreferencePairsSettings, dg.Config):
    """How judgements become labels."""


# It also depends on judge_calibration, whose blocking check keeps the labels of a bad judge out.
@table_asset(code_version="1")
def preference_pairs(
    context: dg.AssetExecutionContext,
    config: PreferencePairsConfig,
    prompts: TableSnapshot,
    response_pairs: TableSnapshot,
    judgements: TableSnapshot,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Pairs with chosen, rejected and P(chosen); ties, identical texts and unjudged pairs are counted, not kept."""
    from cai_dagster.plan.steps import fill_preference_pairs

    work = work_of(context, lake, prompts, response_pairs, judgements)
    counts = fill_preference_pairs(work, config)
    return stage_rows(context, lake, work.staged, counts)
