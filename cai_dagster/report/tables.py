"""The tables of one constitution version as they were at one snapshot: what a report reads. It knows no report."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import polars as pl

from cai_dagster.lake.lake import Lake
from cai_dagster.lake.newest import newest_materializations
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.tables.registry import TABLES

Row = Mapping[str, Any]
MOST_ROWS = 200  # of a table that is shown whole

# SQL for the name of a principle that the constitution does not have (any more).
EARLIER_WORDING = "'(an earlier wording, ' || left(principle_id, 8) || ')'"


class ReportTables:
    """The tables of one version, all as they were at one snapshot."""

    def __init__(self, lake: Lake, version: str) -> None:
        self.snapshot_id = lake.snapshot("constitution", version).snapshot_id
        self._lake = lake
        self._version = version

    def query(self, sql: str, *tables: str) -> pl.DataFrame:
        """The result of a SELECT on these tables."""
        return self._lake.query(sql, **{name: self._snapshot(name) for name in tables})

    def rows(self, sql: str, *tables: str) -> list[dict[str, Any]]:
        """The result, or none where one of the tables was never materialized."""
        return self.query(sql, *tables).to_dicts() if self.have(*tables) else []

    def have(self, *tables: str) -> bool:
        """Whether all of them have been materialized."""
        return all(name in self.accounts for name in tables)

    def recorded(self, record: Callable[[str, int], str], sql: str = "FROM rows") -> pl.DataFrame:
        """What the SQL makes of `rows`: those of a record (`lake.newest`) that belong to this version or to none."""
        rows = record("constitution_version IS NULL OR constitution_version = $version", self.snapshot_id)
        return self._lake.select(f"WITH rows AS ({rows}) {sql}", {"version": self._version})

    @cached_property
    def accounts(self) -> dict[str, dict[str, Any]]:
        """The latest account of each table that has been materialized, by its name."""
        accounts = self.recorded(newest_materializations).filter(pl.col("table_name").is_in(list(TABLES)))
        return {row["table_name"]: row for row in accounts.iter_rows(named=True)}

    def _snapshot(self, table: str) -> TableSnapshot:
        version = self._version if TABLES[table].versioned else None
        return TableSnapshot(self._lake, table, version, self.snapshot_id)
