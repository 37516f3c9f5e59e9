"""The supervised data set: prompts with their revisions."""

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import stage_frame
from assets.common.table_asset import table_asset
from cai_dagster.inputs.settings import Split
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
    from cai_dagster.training.supervised import supervised_examples

    examples = supervised_examples(revision_rounds.frame(), prompts.frame(), Split.sft, config.rounds)
    if examples.height < config.min_rows:
        raise dg.Failure(
            f"sft_dataset: {examples.height} examples, and min_rows asks for {config.min_rows}. Add prompts or "
            "rounds, or lower min_rows if you know that so little data is enough.",
            allow_retries=False,
        )
    return stage_frame(context, lake, examples)
