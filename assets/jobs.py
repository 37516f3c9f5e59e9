"""Jobs: named selections of assets."""

import dagster as dg

from assets.common.partitions import constitution_versions
from cai_dagster.tables.registry import selection_of_required_assets

constitutional_ai = dg.define_asset_job(
    "constitutional_ai",
    selection=selection_of_required_assets(),
    partitions_def=constitution_versions,
    description="A constitution version from its principles to the reward model and its evaluation, with all checks.",
)
