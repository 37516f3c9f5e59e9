"""Which row of a record is the newest: SQL over `materializations` and `check_results`, to which rows are only added.

DuckLake numbers the rows of a table (`rowid`) in the order of their commits. No clock decides: it may be set back, and
those of two machines differ. Columns are named, so that a home of another version is refused.
"""

from cai_dagster.tables.registry import TABLES


def newest_materializations(condition: str = "true", snapshot_id: int | None = None) -> str:
    """SELECT of the last materialization of each table and constitution version, of the rows where `condition` is."""
    return _newest("materializations", ("table_name", "constitution_version"), condition, snapshot_id)


def newest_check_results(condition: str = "true", snapshot_id: int | None = None) -> str:
    """SELECT of the last result of each check by table and constitution version; `runs` counts its results."""
    return _newest("check_results", ("table_name", "constitution_version", "check_name"), condition, snapshot_id)


def in_commit_order(table: str, condition: str = "true", snapshot_id: int | None = None) -> str:
    """SELECT of the rows of a record with the snapshot of their commit, the newest last; as of a snapshot, or now."""
    return f"SELECT {_columns(table)}, snapshot_id FROM {_at(table, snapshot_id)} WHERE {condition} ORDER BY rowid"


def _newest(table: str, key: tuple[str, ...], condition: str, snapshot_id: int | None) -> str:
    window = f"PARTITION BY {', '.join(key)}"
    return (
        f"SELECT {_columns(table)}, count(*) OVER ({window}) AS runs FROM {_at(table, snapshot_id)} WHERE {condition} "
        f"QUALIFY row_number() OVER ({window} ORDER BY rowid DESC) = 1"
    )


def _columns(table: str) -> str:
    return ", ".join(f'"{column.name}"' for column in TABLES[table].columns)


def _at(table: str, snapshot_id: int | None) -> str:
    return f"lake.{table}" if snapshot_id is None else f"lake.{table} AT (VERSION => {snapshot_id})"
