"""Preference pairs: the label policy applied to the judgements. No model, no GPU."""

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import stage_frame
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
    from cai_dagster.judging.label_policies import disregarded, label_pairs, policy_text, preference_rows

    pairs, evidence = response_pairs.frame().lazy(), judgements.frame().lazy()
    labelled = label_pairs(pairs, evidence, config)
    return stage_frame(
        context,
        lake,
        preference_rows(labelled, prompts.frame().lazy()).collect(),
        {"label_policy": policy_text(config), **disregarded(pairs, evidence, config)},
    )
