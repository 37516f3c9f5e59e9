"""The constitution: where every version begins."""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.stage import new_rows, stage_rows
from assets.common.table_asset import table_asset
from cai_dagster.constitution.constitution import ConstitutionError, load_constitution
from cai_dagster.home import CONSTITUTIONS
from resources.lake import LakeResource


@table_asset(code_version="1", kinds={"yaml", "ducklake"})
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
