"""Pairs that people have compared: hh-rlhf, UltraFeedback, RewardBench, TRL or any columns. None by default."""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.launchpad import defaults_from
from assets.common.stage import sources_metadata, stage_rows, work_of
from assets.common.table_asset import table_asset
from cai_dagster.inputs.files import SourceFileError
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.inputs.settings import DecontaminationSettings, HumanPreferencesSettings
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
    from cai_dagster.plan.steps import fill_human_preferences

    work, imported = work_of(context, lake), ImportReport()
    try:
        fill_human_preferences(work, config, active_settings().prompts, config, imported)
    except SourceFileError as error:
        raise failure_of(error) from None
    return stage_rows(
        context, lake, work.staged, {"rejected": dict(work.staged.reasons), **sources_metadata(context, imported)}
    )
