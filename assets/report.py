"""The report of a version: one HTML file in CAI_HOME/reports. It fills no table, so no IO manager has a part in it."""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.pages import page_address
from assets.common.partitions import constitution_versions
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from resources.lake import LakeResource

# Each but the first may be absent: the report says so and how to make it. What is made on demand is none of them: the
# UI would ask at each launch whether to go on without it.
_ABOUT = (
    "constitution",
    "preference_pairs",
    "judge_calibration",
    "sl_cai_model",
    "reward_model_evaluation",
)


@dg.asset(
    partitions_def=constitution_versions,
    deps=[dg.AssetKey(table) for table in _ABOUT],
    group_name="monitoring",
    kinds={"altair", "duckdb"},
    owners=["team:post-training"],
    code_version="3",
    op_tags={"dagster/priority": "-1"},  # after the checks of what it shows, which run as soon as it could
)
def report(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """One self-contained page: constitution, rows, labels, training, rewards, cost, and examples with word diffs."""
    from cai_dagster.report.page import figures, report_path, write_report

    version = context.partition_key
    try:
        written = write_report(lake.open(), version, report_path(Home.from_environment(), version))
    except MendableError as error:
        raise failure_of(error) from None
    rows = "\n".join(f"| {name} | {value} |" for name, value in figures(written.facts).items())
    metadata = {
        **page_address(written.path),
        "path": dg.MetadataValue.path(written.path),
        "bytes": written.bytes,
        "snapshot_id": written.facts.snapshot_id,
        "at_a_glance": dg.MetadataValue.md(f"| | |\n|---|---|\n{rows}"),
    }
    return dg.MaterializeResult(data_version=dg.DataVersion(written.facts.data_version), metadata=metadata)
