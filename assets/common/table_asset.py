"""An asset that makes a table: what Dagster is told of it follows from the declaration in `cai_dagster.tables`."""

import functools
import inspect
from collections.abc import Callable, Set
from typing import Any

import dagster as dg

from assets.common.partitions import constitution_versions
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.table import Maker
from resources.lake import failures_recorded

_KINDS = {
    Maker.file: {"polars", "ducklake"},
    Maker.model: {"vllm", "ducklake"},
    Maker.training: {"pytorch", "huggingface"},
    Maker.scoring: {"pytorch", "ducklake"},
    Maker.computation: {"polars", "ducklake"},
    Maker.summary: {"polars", "ducklake"},
}


def table_asset(
    code_version: str, kinds: Set[str] | None = None
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Decorator of the function that makes the table of its name.

    Partitions, group, kinds, pool and dependencies are those of the declaration. A table that the asset reads, and that
    may be absent, is no parameter of the function: the asset depends on it all the same. But for those made on demand:
    the UI would ask at each launch whether to go on without them. The lake notes a failure.

    Raises ValueError where a parameter is a table that the declaration does not name among those that are read.
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        table = TABLES[function.__name__]
        parameters = inspect.signature(function).parameters.values()
        handed = {parameter.name for parameter in parameters if parameter.annotation is TableSnapshot}
        if undeclared := handed - set(table.reads):
            named = ", ".join(sorted(undeclared))
            raise ValueError(f"{table.name} reads {named}: name it in `reads` of its declaration")

        @functools.wraps(function)
        def noted(*arguments: Any, **named: Any) -> Any:
            context: dg.AssetExecutionContext = arguments[0] if arguments else named["context"]
            version = context.partition_key if table.versioned else None
            with failures_recorded(context.run_id, table.name, version):
                return function(*arguments, **named)

        reads = [name for name in table.reads if table.on_demand or not TABLES[name].on_demand]
        return dg.asset(
            partitions_def=constitution_versions if table.versioned else None,
            deps=[name for name in reads if name not in handed],
            group_name=table.group,
            kinds=set(kinds or _KINDS[table.maker]),
            owners=["team:post-training"],
            code_version=code_version,
            pool="gpu" if table.maker.holds_the_accelerator else None,
            # In a run that makes what it shows where there is some, it comes after that.
            op_tags={} if reads == [*table.reads] else {"dagster/priority": "-1"},
        )(noted)

    return decorate
