"""The supervised data set: prompts with their revisions."""

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import stage_rows, work_of
from assets.common.table_asset import table_asset
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.settings import active_settings
from cai_dagster.training.settings import SftDatasetSettings
from resources.lake import LakeResource


@defaults_from(active_settings().sft_dataset)
class SftDatasetConfig(SftDatasetSettings, dg.Config):
    """Which revisions become supervised examples."""


@table_asset(code_version="1")
def sft_dataset(
    context: dg.AssetExecutionContext,
    config: SftDatasetConfig,
    revision_rounds: TableSnapshot,
    prompts: TableSnapshot,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """(x, y^n), or (x, y^i) of every round, for the prompts of the split `sft`."""
    from cai_dagster.plan.steps import fill_sft_dataset

    work = work_of(context, lake, revision_rounds, prompts)
    examples = fill_sft_dataset(work, config)
    if examples < config.min_rows:
        raise dg.Failure(
            f"sft_dataset: {examples} examples, and min_rows asks for {config.min_rows}. Add prompts or "
            "rounds, or lower min_rows if you know that so little data is enough.",
            allow_retries=False,
        )
    return stage_rows(context, lake, work.staged)
