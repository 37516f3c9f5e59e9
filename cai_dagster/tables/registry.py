"""Every table of the project, in the order of the graph, and what follows from the declarations.

Nothing else lists tables: whoever needs some of them asks here. A table is added by its declaration in one of the
modules below; `declared` sorts it behind the tables that it reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cai_dagster.tables import (
    calibration,
    comparison,
    feedback_stage,
    inputs,
    plans,
    policy_optimization,
    records,
    reward_modelling,
    supervised_stage,
)
from cai_dagster.tables.table import Maker, Table

_MODULES = (
    *(inputs, supervised_stage, feedback_stage, calibration, reward_modelling),
    *(policy_optimization, comparison, plans, records),
)


def in_graph_order(tables: Iterable[Table]) -> dict[str, Table]:
    """Tables by name, each behind those that it reads; otherwise as they are given.

    Raises ValueError where a table reads itself, directly or through others, or one that is not given.
    """
    waiting = {table.name: table for table in tables}
    ordered: dict[str, Table] = {}
    while waiting:
        ready = next((table for table in waiting.values() if ordered.keys() >= set(table.reads)), None)
        if ready is None:
            raise ValueError(f"tables that read each other, or one that is not declared: {', '.join(waiting)}")
        ordered[ready.name] = waiting.pop(ready.name)
    return ordered


TABLES = in_graph_order(table for module in _MODULES for table in vars(module).values() if isinstance(table, Table))


def graph() -> list[Table]:
    """The tables from the constitution to a model, in order."""
    return [table for table in TABLES.values() if table.in_graph]


def made_by(maker: Maker) -> list[str]:
    """The names of the tables whose rows are made that way, in order."""
    return [table.name for table in TABLES.values() if table.maker == maker]


def shared_tables() -> list[str]:
    """The names of the tables of the graph that know no constitution: one table for all versions."""
    return [table.name for table in graph() if not table.versioned]


def tables_with(*columns: str) -> list[str]:
    """The names of the tables made by assets that have all these columns."""
    return [table.name for table in TABLES.values() if table.maker != Maker.record and table.has(*columns)]


def columns_made_from(table: str) -> dict[str, list[tuple[str, str]]]:
    """Column → the columns it is made from, as (table, column); columns that begin in this table are left out."""
    return {
        column.name: [(name, source) for name, _, source in (one.partition(".") for one in column.sources)]
        for column in TABLES[table].columns
        if column.sources
    }


@dataclass(frozen=True)
class Reference:
    """Every row of `table` was made of a row of `partner`: what its `columns` say is the key of that row.

    A column whose name is that of a key in the plural is a list, of the keys of several such rows.
    """

    table: str
    partner: str
    columns: Mapping[str, str]
    """Column of the table → column of the partner's key."""


def references_among(tables: Iterable[str]) -> list[Reference]:
    """The references between these tables: where a table has the whole key of another, made from it."""
    names = [name for name in TABLES if name in set(tables)]
    found = [_reference(name, partner) for name in names for partner in names if name != partner]
    return [reference for reference in found if reference is not None]


def _reference(table: str, partner: str) -> Reference | None:
    columns: dict[str, str] = {}
    for key in TABLES[partner].key:
        name = f"{key}s" if TABLES[table].has(f"{key}s") else key
        if key != "constitution_version":
            if not TABLES[table].has(name) or (partner, key) not in _origins(table, name):
                return None
            columns[name] = key
    return Reference(table, partner, columns) if columns else None


def _origins(table: str, column: str) -> set[tuple[str, str]]:
    """The columns that a column is made from, those that they are made from, and so on."""
    origins = set(columns_made_from(table).get(column, ()))
    return origins.union(*(_origins(*origin) for origin in origins))


def tables_with_calls_of(stage: str) -> list[str]:
    """The names of the tables whose rows may name a call that the ledger files under a stage, in order.

    What a stage's name has after a slash is a part of the stage. Calls of an unknown stage may be in any table.
    """
    calling = [table for table in TABLES.values() if table.call_columns]
    of_stage = [table.name for table in calling if stage.partition("/")[0] in stages_of_calls(table)]
    return of_stage or [table.name for table in calling]


def stages_of_calls(table: Table) -> set[str]:
    """The stages of the calls that a table names: its own, and those of the columns that its ids are copied from."""
    stages = {table.calls} if table.maker == Maker.model else set[str]()
    for name in table.call_columns:
        for source in table.column(name).sources:
            origin, _, column = source.partition(".")
            if column in TABLES[origin].call_columns:
                stages |= stages_of_calls(TABLES[origin])
    return stages


REPORT = "report"
"""The one asset that fills no table: a page about a version."""


def assets_of_the_graph() -> list[str]:
    """The names of all assets, in order."""
    return [*(table.name for table in TABLES.values() if table.maker != Maker.record), REPORT]


def required_assets() -> list[str]:
    """The assets that are no extras, in order: what `cai demo`, `cai run` and the job materialize."""
    return [*(name for name in TABLES if name not in _extras()), REPORT]


def selection_of_required_assets(with_shared: bool = True) -> str:
    """The assets that are no extras, in Dagster's selection syntax; with those that all versions share, or not."""
    left_out = () if with_shared else shared_tables()
    return " or ".join(f"key:{name}" for name in required_assets() if name not in left_out)


def _extras() -> set[str]:
    return {table.name for table in TABLES.values() if table.on_demand or table.maker == Maker.record}
