"""Pairs that people have compared: hh-rlhf, UltraFeedback, RewardBench, TRL or any columns. None by default."""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.launchpad import defaults_from
from assets.common.stage import new_rows, stage_rows
from assets.common.table_asset import table_asset
from cai_dagster.home import Home
from cai_dagster.inputs.decontamination import evaluation_sets
from cai_dagster.inputs.files import SourceFileError
from cai_dagster.inputs.human_preferences import collect_human_preferences
from cai_dagster.inputs.settings import DecontaminationSettings, HumanPreferencesSettings
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.settings import active_settings
from resources.lake import LakeResource


@defaults_from(active_settings().decontamination)
@defaults_from(active_settings().human_preferences)
class HumanPreferencesConfig(HumanPreferencesSettings, DecontaminationSettings, dg.Config):
    """Where human-labelled pairs come from."""


@table_asset(code_version="1")
def human_preferences(
    context: dg.AssetExecutionContext, config: HumanPreferencesConfig, lake: LakeResource
) -> dg.MaterializeResult:
    """Every human-labelled pair once; rows that are no pair are in rejected_rows."""
    splits = active_settings().prompts
    try:
        pairs, rejected = collect_human_preferences(
            config, splits, evaluation_sets(config), forgotten_prompts(Home.from_environment())
        )
    except SourceFileError as error:
        raise failure_of(error) from None
    staged = new_rows(context, lake)
    staged.add(pairs)
    for row in rejected:
        staged.reject(row.source, row.reason, row.row)
    return stage_rows(context, lake, staged, {"rejected": dict(staged.reasons)}, config.max_rejected_share)
