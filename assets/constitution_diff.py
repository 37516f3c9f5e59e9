"""A version beside the one that it is based on: what its edits changed, and whose revisions are preferred.

The base is no input of the graph: it is another partition of the same tables, read as it is in the lake.
"""

import dagster as dg

from assets.common.failures import failure_of
from assets.common.launchpad import defaults_from
from assets.common.pages import page_address
from assets.common.partitions import CONSTITUTIONS
from assets.common.stage import new_rows, run_stage, stage_rows
from assets.common.table_asset import table_asset
from cai_dagster.compare.settings import ConstitutionDiffSettings
from cai_dagster.constitution.bases import base_of
from cai_dagster.constitution.constitution import Constitution
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.judging.settings import JudgementsSettings
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.plan.stages import version_judgements_stage
from cai_dagster.settings import active_settings
from resources.lake import LakeResource, RunTables
from resources.language_models import LanguageModelResource

_FIRST = "This is the first version: there is none to compare it with. `against` in the launchpad names one."


@defaults_from(active_settings().constitution_diff)
@defaults_from(active_settings().judgements)
class VersionJudgementsConfig(ConstitutionDiffSettings, JudgementsSettings, dg.Config):
    """Which version is compared with. The feedback model is asked as for `judgements`, and always in both orders."""


@table_asset(code_version="1")
def version_judgements(
    context: dg.AssetExecutionContext,
    config: VersionJudgementsConfig,
    constitution: TableSnapshot,
    prompts: TableSnapshot,
    revision_rounds: TableSnapshot,
    feedback_model: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Final revisions of two versions × principle × order, under the principles of both: log P(A) and log P(B)."""
    from cai_dagster.compare.version_tables import refuse_the_same

    against = config.against or base_of(CONSTITUTIONS, context.partition_key)
    if against is None:
        return stage_rows(context, lake, new_rows(context, lake), {"against": _FIRST})
    try:
        refuse_the_same(against, context.partition_key)
        read = RunTables.of(context.instance, context.run.run_id)
        earlier = {table: read.snapshot(table, against) for table in ("constitution", "revision_rounds")}
    except MendableError as error:
        raise failure_of(error) from None
    both = [Constitution.from_rows(one.frame().to_dicts()) for one in (earlier["constitution"], constitution)]
    stage = version_judgements_stage(both, config, config)
    tables = {
        "prompts": prompts,
        "revision_rounds": revision_rounds,
        "revision_rounds_before": earlier["revision_rounds"],
    }
    return run_stage(context, lake, feedback_model, stage, tables)


@defaults_from(active_settings().constitution_diff)
class ConstitutionDiffConfig(ConstitutionDiffSettings, dg.Config):
    """Which version is compared with, and how much is shown."""


@table_asset(code_version="3")
def constitution_diff(
    context: dg.AssetExecutionContext, config: ConstitutionDiffConfig, lake: LakeResource
) -> dg.MaterializeResult:
    """What a version changed against an earlier one: principles, rows, labels, win rates, rewards, checks, cost."""
    from cai_dagster.checks.history import read_history
    from cai_dagster.compare.version_tables import diff_versions
    from cai_dagster.compare.views import markdown_summary, page, page_path
    from cai_dagster.pages.html import write_page

    version = context.partition_key
    against = config.against or base_of(CONSTITUTIONS, version)
    staged = new_rows(context, lake)
    if against is None:
        return stage_rows(context, lake, staged, {"against": _FIRST})
    try:
        made = diff_versions(lake.open(), against, version, CONSTITUTIONS, config)
    except MendableError as error:
        raise failure_of(error) from None
    staged.add(made.to_rows())
    file = page_path(Home.from_environment(), made)
    write_page(file, page(made, read_history(lake.open(), [against, version])))
    metadata = {
        "against": against,
        **page_address(file),
        "path": dg.MetadataValue.path(file),
        "diff": dg.MetadataValue.md(markdown_summary(made)),
    }
    return stage_rows(context, lake, staged, metadata)
