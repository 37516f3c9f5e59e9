"""How an asset's rows are made and handed over: the mechanism of every table, written once.

`run_stage` is for tables whose rows are made by a model, `stage_rows` for the others. Both end in the IO manager, which
commits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.common.failures import failure_of
from cai_dagster.calls.ledgered_model import LedgeredModel, Usage
from cai_dagster.home import Home
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.lake.snapshots import Account, TableSnapshot
from cai_dagster.models.weights import Weights
from cai_dagster.plan.stages import Stage
from cai_dagster.settings import active_settings
from cai_dagster.tables.table import Maker
from cai_dagster.text import escaped
from resources.lake import LakeResource, RunTables, StagedTable
from resources.language_models import LanguageModelResource

if TYPE_CHECKING:
    from cai_dagster.lake.staging import StagedRows
    from cai_dagster.plan.work import Work

Metadata = dict[str, Any]
PROGRESS_TAG, PAID_TAG = "cai/progress", "cai/calls_paid"
LONGEST_TAG = 255


def constitution_version(context: dg.AssetExecutionContext) -> str | None:
    """The partition of this materialization; None for an asset that knows no constitution."""
    return context.partition_key if context.assets_def.partitions_def is not None else None


def run_stage(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    model: LanguageModelResource,
    stage: Stage,
    tables: Mapping[str, TableSnapshot],
    checkpoint: Weights | None = None,
) -> dg.MaterializeResult:
    """Run the stage's recipe for each of its rows, many at once, each call through the ledger; stage the results.

    The model is the configured one, or a checkpoint served the same way.
    """
    return run_stages(context, lake, model, [(checkpoint, stage)], tables)


def run_stages(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    model: LanguageModelResource,
    runs: Sequence[tuple[Weights | None, Stage]],
    tables: Mapping[str, TableSnapshot],
    more: Metadata | None = None,
) -> dg.MaterializeResult:
    """As `run_stage`, for a table whose rows several checkpoints make, one after the other."""
    from assets.common.drivers import run_drivers, shares_of
    from cai_dagster.calls.row_stream import Progress, run_rows

    store = lake.open()
    staged = new_rows(context, lake)
    table = staged.table.name

    def report(progress: Progress) -> None:
        context.log.info(f"{table}: {progress}")
        _tag_run(context, f"{table}: {progress}", paid_before + progress.paid)

    def run() -> None:
        _reject_without_partner(context, lake, tables.values(), staged)
        for (checkpoint, stage), asked in zip(runs, models, strict=True):
            total = store.count(stage.rows, **tables)
            in_flight, drivers = model.rows_in_flight, model.drivers_of(total, checkpoint)
            how = f"{in_flight} at a time{f', by {drivers} processes' if drivers > 1 else ''}"
            context.log.info(f"{table}: {total:,} rows with {asked.model_id}, {how}")
            if drivers > 1:
                served = checkpoint or model.served_weights()
                shares = shares_of(stage, tables, staged, total, model.settings, served, drivers)
                asked.usage += run_drivers(shares, staged, context.log.info, report)
            else:
                rows = store.stream(stage.rows, **tables)
                run_rows(rows, total, stage.recipe, asked, staged, stage.row_id, in_flight, report)

    models = [model.language_model(context.log.info, checkpoint) for checkpoint, _ in runs]
    paid_before = _paid_so_far(context)
    run_until_agreed(run, models, staged, context.log.info)
    usage = sum((asked.usage for asked in models), Usage())
    speed = f", {usage.tokens.speed(usage.engine_seconds)}" if usage.misses else ""
    paid = f"{usage.misses:,} calls paid for, {usage.hits:,} from the ledger, {usage.tokens.total:,} tokens{speed}"
    context.log.info(f"{table}: {paid}")
    _tag_run(context, f"{table}: done", paid_before + usage.misses)
    names = ", ".join(dict.fromkeys(asked.model_id for asked in models))
    return _result(context, lake, staged, usage, {"model": names, **_cost(usage), **(more or {})}, names)


def _tag_run(context: dg.AssetExecutionContext, progress: str, paid: int) -> None:
    """Say how far the run is: while it runs, an asset has no metadata yet; its page and lists of runs show tags."""
    context.instance.add_run_tags(context.run_id, {PROGRESS_TAG: progress[:LONGEST_TAG], PAID_TAG: f"{paid:,}"})


def _paid_so_far(context: dg.AssetExecutionContext) -> int:
    """The calls that earlier stages of this run have paid for."""
    run = context.instance.get_run_by_id(context.run_id)
    return int((run.tags.get(PAID_TAG, "0") if run else "0").replace(",", ""))


def _cost(usage: Usage) -> Metadata:
    prompt, completion = usage.tokens.a_second(usage.engine_seconds)
    return {
        "ledger_hits": usage.hits,
        "ledger_misses": usage.misses,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "prompt_tokens_per_second": round(prompt, 1),
        "completion_tokens_per_second": round(completion, 1),
        "cached_prompt_share": round(usage.tokens.cached_share or 0.0, 4),
    }


def run_until_agreed(
    run: Callable[[], None], models: Sequence[LedgeredModel], staged: "StagedRows", log: Callable[[str], None]
) -> None:
    """Run until every row consists of what the ledger says: another run may have paid for the same call just before."""
    run()
    while overruled := sum(len(model.overruled) for model in models):
        log(f"another run paid for {overruled:,} of these calls first; making the rows of its answers")
        for model in models:
            model.overruled.clear()
        staged.start_again()
        run()


def work_of(context: dg.AssetExecutionContext, lake: LakeResource, *tables: TableSnapshot) -> "Work":
    """What a step of this asset works with: the tables it reads, and an empty set of rows to fill."""
    from cai_dagster.plan.work import Work

    snapshots = {table.table: table for table in tables}
    version = constitution_version(context) or ""
    return Work(Home.from_environment(), lake.open(), version, snapshots, new_rows(context, lake, tables))


def new_rows(
    context: dg.AssetExecutionContext, lake: LakeResource, tables: Iterable[TableSnapshot] = ()
) -> "StagedRows":
    """An empty set of rows to fill for this asset's table and partition.

    `tables` are those that are joined for it: their rows without a partner are set aside at once, and nothing is
    trained or scored then.
    """
    staged = lake.open().stage(context.asset_key.to_user_string(), constitution_version(context))
    _reject_without_partner(context, lake, tables, staged)
    if staged.table.maker in (Maker.training, Maker.scoring):
        _refuse_too_many_rejected(lake, staged)
    return staged


def _reject_without_partner(
    context: dg.AssetExecutionContext, lake: LakeResource, tables: Iterable[TableSnapshot], staged: "StagedRows"
) -> None:
    from cai_dagster.lake.partners import reject_without_partner

    rejected = reject_without_partner(lake.open(), {table.table: table for table in tables}, staged)
    if rejected:
        staged.inputs += rejected if staged.table.maker == Maker.model else 0
        context.log.warning(f"{rejected:,} rows read for {staged.table.name} have no partner in another table any more")


def _refuse_too_many_rejected(lake: LakeResource, staged: "StagedRows") -> None:
    """Fail the asset, and record why, where more rows were set aside than the checks allow."""
    from cai_dagster.checks.rejected_rows import TooManyRejectedRowsError, refuse_too_many_rejected

    try:
        refuse_too_many_rejected(staged, active_settings().checks)
    except TooManyRejectedRowsError as error:
        staged.close()
        lake.open().commit_rejected(staged)
        raise failure_of(error, {"reasons": staged.reasons}) from None


def sources_metadata(context: dg.AssetExecutionContext, report: ImportReport) -> Metadata:
    """What was read of each source, as metadata; the log has it too."""
    for line in report.lines():
        context.log.info(line)
    return {"sources": dg.MetadataValue.md("\n".join(f"* {escaped(line)}" for line in report.lines()))}


def stage_rows(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    staged: "StagedRows",
    metadata: Metadata | None = None,
) -> dg.MaterializeResult:
    """Hand over rows that were staged one by one."""
    staged.close()
    return _result(context, lake, staged, Usage(), metadata or {})


def _result(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    staged: "StagedRows",
    usage: Usage,
    metadata: Metadata,
    model_id: str | None = None,
) -> dg.MaterializeResult:
    _refuse_too_many_rejected(lake, staged)
    account = Account(
        run_id=context.run.run_id,
        ledger_hits=usage.hits,
        ledger_misses=usage.misses,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        engine_seconds=usage.engine_seconds,
        seconds=staged.seconds,
        model_id=model_id,
        data_version=lake.open().data_version(staged),
        read_at=RunTables.of(context.instance, context.run.run_id).began_at,
    )
    return dg.MaterializeResult(
        value=StagedTable(staged, account),
        data_version=dg.DataVersion(account.data_version),
        metadata={**metadata, "seconds": round(account.seconds, 2)},
    )
