"""Whether a table has the rows that it should have: every row found by filters, every key once."""

import polars as pl

from cai_dagster.lake.connection import literal
from cai_dagster.lake.lake import Lake
from cai_dagster.tables.table import Table


def hidden_from_filters(lake: Lake, table: Table) -> list[str]:
    """The text columns of a table's key by which a filter misses rows that a read of the whole table has.

    A filter prunes by the catalog's bounds; the smallest and largest text, read without a filter, must be found.
    """
    columns = [name for name in table.key if table.schema[name] == pl.String]
    extremes = ", ".join(f"""min("{name}" || ''), max("{name}" || '')""" for name in columns)
    found = lake.select(f"SELECT {extremes} FROM lake.{table.name}", {}).row(0) if columns else ()
    return [
        name
        for number, name in enumerate(columns)
        if any(
            text is not None and not _has(lake, table.name, name, text) for text in found[2 * number : 2 * number + 2]
        )
    ]


def _has(lake: Lake, table: str, column: str, text: str) -> bool:
    # A literal: a bound parameter is not known when DuckDB prunes by the bounds.
    return lake.select(f'SELECT 1 FROM lake.{table} WHERE "{column}" = {literal(text)} LIMIT 1', {}).height > 0


def doubled_keys(lake: Lake, table: Table) -> list[str]:
    """The constitution versions of a table of which several rows have one key."""
    key = ", ".join(f'"{column}"' for column in table.key)
    doubled = f"SELECT {key} FROM lake.{table.name} GROUP BY {key} HAVING count(*) > 1"
    versions = f"SELECT DISTINCT constitution_version FROM ({doubled}) ORDER BY 1"
    return lake.select(versions, {})["constitution_version"].to_list()
