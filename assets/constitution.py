"""The constitution: the first asset of a version."""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.stage import stage_rows, work_of
from assets.common.table_asset import table_asset
from cai_dagster.constitution.versions import ConstitutionError
from cai_dagster.project import CONSTITUTIONS
from resources.lake import LakeResource


@table_asset(code_version="1", kinds={"yaml", "ducklake"})
def constitution(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """The principles of one constitution version, from constitutions/<version>.yaml."""
    from cai_dagster.plan.steps import fill_constitution

    file = CONSTITUTIONS / f"{context.partition_key}.yaml"
    work = work_of(context, lake)
    try:
        fill_constitution(work, file)
    except ConstitutionError as error:
        raise failure_of(error) from None
    return stage_rows(context, lake, work.staged, {"file": dg.MetadataValue.path(file)})
