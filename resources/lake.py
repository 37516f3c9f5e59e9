"""The lake as Dagster sees it: a resource to read it with, and the one IO manager that every table goes through."""

import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg

from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake.snapshots import Account, TableSnapshot
from cai_dagster.profiles import active_profile, remember_profile, remembered_profile
from cai_dagster.tables.registry import TABLES, columns_made_from
from cai_dagster.tables.table import Table
from cai_dagster.text import first_line, printable

if TYPE_CHECKING:
    import polars as pl

    from cai_dagster.lake.lake import Lake
    from cai_dagster.lake.staging import StagedRows

PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 200
LONGEST_ERROR = 500


@dataclass(frozen=True)
class StagedTable:
    """What an asset hands to the IO manager: rows staged and validated, and what they cost."""

    rows: "StagedRows"
    account: Account


class LakeResource(dg.ConfigurableResource):
    """The tables in CAI_HOME."""

    def open(self) -> "Lake":
        """The lake; one for each home in this process."""
        return open_lake(Home.from_environment())


@cache
def open_lake(home: Home) -> "Lake":
    """The lake of a home. Imported late: duckdb and pandera are no part of loading the code location."""
    from cai_dagster.lake.lake import Lake

    return Lake(home)


SNAPSHOT_TAG = "cai/snapshot"
"""The tag of a run with the snapshot of the lake that it reads. Set it at launch to have a run read an earlier one."""


@dataclass(frozen=True)
class RunTables:
    """The tables as a run reads them: as they were when it began, and as it has made them itself since.

    So all its steps read the same rows, whatever other runs commit meanwhile.
    """

    lake: "Lake"
    run_id: str
    began_at: int

    @staticmethod
    def of(instance: dg.DagsterInstance, run_id: str) -> "RunTables":
        """Those of a run, which begins with the first step that reads a table.

        Raises MendableError where the tag that was given at launch names no snapshot.
        """
        home = Home.from_environment()
        lake = open_lake(home)
        began_at = _noted_snapshot(instance, run_id) or _note_snapshot(instance, run_id, home, lake)
        if not began_at.isdecimal():
            raise MendableError(f"tag {SNAPSHOT_TAG} of the run: {began_at!r} is not the number of a snapshot")
        return RunTables(lake, run_id, int(began_at))

    def find(self, table: str, constitution_version: str | None = None) -> TableSnapshot | None:
        """The table, or one version of it; None where it had not been materialized."""
        return self.lake.snapshot_in_run(table, constitution_version, self.run_id, self.began_at)

    def snapshot(self, table: str, constitution_version: str | None = None) -> TableSnapshot:
        """As `find`. Raises LakeError where it had not been materialized."""
        from cai_dagster.lake.snapshot_tables import never_materialized

        found = self.find(table, constitution_version)
        if found is None:
            when = f" when this run began (snapshot {self.began_at})"
            raise never_materialized(table, constitution_version, when)
        return found


def _noted_snapshot(instance: dg.DagsterInstance, run_id: str) -> str | None:
    run = instance.get_run_by_id(run_id)
    return run.tags.get(SNAPSHOT_TAG) if run else None


def _note_snapshot(instance: dg.DagsterInstance, run_id: str, home: Home, lake: "Lake") -> str:
    """In the lock of commits, so that steps which begin at the same moment find the snapshot of the first of them."""
    from cai_dagster.lake.catalog_database import commit_lock

    with commit_lock(home):
        began_at = _noted_snapshot(instance, run_id)
        if began_at is None:
            began_at = str(lake.current_snapshot())
            if instance.has_run(run_id):
                instance.add_run_tags(run_id, {SNAPSHOT_TAG: began_at})
    return began_at


@contextmanager
def failures_recorded(run_id: str, table: str, constitution_version: str | None) -> Generator[None]:
    """Note in the lake that a materialization failed, and why; the error goes on as it was."""
    try:
        yield
    except Exception as error:
        reason = error.description if isinstance(error, dg.Failure) else None
        row = {
            "table_name": table,
            "constitution_version": constitution_version,
            "run_id": run_id,
            "failed_at": datetime.now(UTC).replace(tzinfo=None),
            "error": first_line(reason or str(error) or type(error).__name__, LONGEST_ERROR),
        }
        with suppress(Exception):  # what made it fail may keep it from being written down: that is what is to be said
            open_lake(Home.from_environment()).append("failed_materializations", row)
        raise


class LakeIOManager(dg.ConfigurableIOManager):
    """Commits what an asset staged in one transaction, and hands later assets a snapshot of it."""

    def handle_output(self, context: dg.OutputContext, obj: StagedTable) -> None:
        """Replace the table, or one constitution version of it."""
        from cai_dagster.lake.catalog_database import catalog_named

        home = Home.from_environment()
        lake = open_lake(home)
        with failures_recorded(obj.account.run_id, obj.rows.table.name, obj.rows.constitution_version):
            snapshot_id = lake.commit(obj.rows, obj.account)
        if remembered_profile(home) is None:
            remember_profile(home, active_profile())
        table = obj.rows.table
        snapshot = TableSnapshot(lake, table.name, obj.rows.constitution_version, snapshot_id)
        everything = TableSnapshot(lake, table.name, None, snapshot_id)
        metadata: dict[str, Any] = {
            "dagster/row_count": lake.count(f"FROM {table.name}", **{table.name: everything}),
            "dagster/column_schema": _column_schema(table),
            "dagster/table_name": f"lake.{table.name}",
            "dagster/uri": f"ducklake:{catalog_named(home)}",
            "snapshot_id": snapshot_id,
            "rejected_rows": obj.rows.rejected_count,
            "preview": _preview(_previewed(lake, table, snapshot)),
        }
        lineage = _column_lineage(table.name)
        if lineage.deps_by_column:
            metadata["dagster/column_lineage"] = lineage
        if table.versioned:
            metadata["dagster/partition_row_count"] = obj.rows.row_count
        context.add_output_metadata(metadata)

    def load_input(self, context: dg.InputContext) -> TableSnapshot:
        """The table as the run reads it; of the partition's constitution version where the table has versions."""
        version = context.partition_key if context.has_asset_partitions else None
        tables = RunTables.of(context.step_context.instance, context.step_context.run_id)
        return tables.snapshot(context.asset_key.to_user_string(), version)


def _column_schema(table: Table) -> dg.TableSchema:
    types = table.schema
    return dg.TableSchema(
        columns=[dg.TableColumn(one.name, str(types[one.name]), description=one.description) for one in table.columns]
    )


def _column_lineage(table: str) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(source), name) for source, name in sources]
            for column, sources in columns_made_from(table).items()
        }
    )


def _previewed(lake: "Lake", table: Table, snapshot: TableSnapshot) -> "pl.DataFrame":
    """The first rows of the table's preview; what it quotes of other tables is as it was at the same moment."""
    tables = {table.name: snapshot}
    for name in table.reads:
        if re.search(rf"\b{name}\b", table.preview):
            version = snapshot.constitution_version if TABLES[name].versioned else None
            tables[name] = TableSnapshot(lake, name, version, snapshot.snapshot_id)
    return lake.query(f"{table.previewed} LIMIT {PREVIEW_ROWS}", **tables)


def _preview(frame: "pl.DataFrame") -> dg.TableMetadataValue | dg.MarkdownMetadataValue:
    if not frame.height:
        return dg.MetadataValue.md("no rows")
    records = [
        dg.TableRecord({name: _shown(value) for name, value in row.items()}) for row in frame.iter_rows(named=True)
    ]
    return dg.MetadataValue.table(records)


def _shown(value: Any) -> str | int | float | bool:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, (int, bool)):
        return value
    return "" if value is None else printable(str(value), PREVIEW_CHARACTERS)
