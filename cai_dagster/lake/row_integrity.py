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
    if not columns:
        return []
    extremes = ", ".join(f"""[min("{name}" || ''), max("{name}" || '')]""" for name in columns)
    found = lake.select(f"SELECT {extremes} FROM lake.{table.name}", {}).row(0)
    sought = [(name, text) for name, texts in zip(columns, found, strict=True) for text in texts if text is not None]
    if not sought:
        return []
    # Literals: a bound parameter is not known when DuckDB prunes by the bounds.
    filters = (f'EXISTS (FROM lake.{table.name} WHERE "{name}" = {literal(text)})' for name, text in sought)
    seen = lake.select(f"SELECT {', '.join(filters)}", {}).row(0)
    return list(dict.fromkeys(name for (name, _), is_seen in zip(sought, seen, strict=True) if not is_seen))


def doubled_keys(lake: Lake, table: Table) -> list[str]:
    """The constitution versions of a table of which several rows have one key."""
    key = ", ".join(f'"{column}"' for column in table.key)
    doubled = f"SELECT {key} FROM lake.{table.name} GROUP BY {key} HAVING count(*) > 1"
    versions = f"SELECT DISTINCT constitution_version FROM ({doubled}) ORDER BY 1"
    return lake.select(versions, {})["constitution_version"].to_list()
