"""The constitution: where every version begins."""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.partitions import constitution_versions
from assets.common.stage import new_rows, stage_rows
from cai_dagster.constitution.constitution import ConstitutionError, load_constitution
from cai_dagster.home import CONSTITUTIONS
from resources.lake import LakeResource


@dg.asset(
    partitions_def=constitution_versions,
    group_name="inputs",
    kinds={"yaml", "ducklake"},
    owners=["team:post-training"],
    code_version="1",
)
def constitution(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """The principles of one constitution version, from constitutions/<version>.yaml."""
    file = CONSTITUTIONS / f"{context.partition_key}.yaml"
    try:
        principles = load_constitution(file)
    except ConstitutionError as error:
        raise failure_of(error) from None
    staged = new_rows(context, lake)
    staged.add(principles.to_rows())
    return stage_rows(context, lake, staged, {"file": dg.MetadataValue.path(file)})
