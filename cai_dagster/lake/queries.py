"""SQL over snapshots and staged rows."""

# pyright: reportMissingTypeStubs=false

from collections.abc import Iterable, Mapping
from pathlib import Path

from cai_dagster.lake.connection import literal
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.lake.staging import StagedRows
from cai_dagster.tables.table import Table

Rows = TableSnapshot | StagedRows


def of_prompts(table: Table, ids: Iterable[str]) -> str | None:
    """SQL for the rows of a table that belong to prompts or pairs with these ids; None where it knows neither.

    A row that was set aside belongs to those that its id, its reason or its texts name.
    """
    listed = sorted(ids)
    if table.forget_by_text:
        return " OR ".join(f"contains(concat_ws(' ', row_id, reason, row), {literal(one)})" for one in listed)
    values = ", ".join(map(literal, listed))
    return " OR ".join(f"{name} IN ({values})" for name in table.prompt_columns) or None


def select_rows(snapshot: Rows) -> str:
    """SQL that reads exactly the snapshot's rows, or those staged."""
    if isinstance(snapshot, StagedRows):
        if not snapshot.parts:
            return f"SELECT * FROM lake.{snapshot.table.name} WHERE false"
        return f"SELECT * FROM read_parquet({literals(snapshot.parts)}, hive_partitioning = false)"
    rows = f"SELECT * FROM lake.{snapshot.table} AT (VERSION => {snapshot.snapshot_id})"
    if snapshot.constitution_version is None:
        return rows
    return f"{rows} WHERE constitution_version = {literal(snapshot.constitution_version)}"


def with_tables(sql: str, tables: Mapping[str, Rows]) -> str:
    """The SELECT with each keyword as a table of its own."""
    if not tables:
        return sql
    return f"WITH {', '.join(f'{name} AS ({select_rows(table)})' for name, table in tables.items())} {sql}"


def literals(values: list[Path]) -> str:
    """Paths as a list in SQL."""
    return "[" + ", ".join(literal(value) for value in values) + "]"
