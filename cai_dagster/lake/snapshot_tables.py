"""Reading the lake: a table as it was at a snapshot, a SELECT over several, their rows as a stream or a file.

It writes nothing but the copies that a slow reader reads. `lake.Lake`, which commits, uses the same connection.
"""

# pyright: reportMissingTypeStubs=false

import contextlib
import weakref
from collections.abc import Generator, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet

from cai_dagster.disk import full_disk_named
from cai_dagster.home import Home
from cai_dagster.lake.catalog import attach
from cai_dagster.lake.connection import LakeError, is_conflict, literal, retry_conflicts, started_duckdb
from cai_dagster.lake.newest import newest_materializations
from cai_dagster.lake.queries import Rows, select_rows, with_tables
from cai_dagster.lake.scratch import (
    new_scratch_folder,
    remove_abandoned,
    remove_scratch_folder,
    scratch_folder,
    scratch_of,
    temporary_scratch,
)
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.lake.staging import StagedRows
from cai_dagster.tables.registry import TABLES

STREAM_ROWS = 1_024
COPIED_ROWS = 16_384  # in a row group: what is read at once of a copy
_MOST_DIGITS = 8  # of an id, by which parts are told apart
MEGABYTES_A_THREAD = 160  # of DuckDB for a copy; a sort or join that does not fit overflows to temporary files


class SnapshotTables:
    """The tables in one home, read at snapshots."""

    def __init__(self, home: Home) -> None:
        self._home = home

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        connection = started_duckdb(self._home)
        self._scratch.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self._scratch)
        with full_disk_named(self._home.root, temporary_scratch()):
            _overflow_into_scratch(connection)
            attach(connection, self._home)
        return connection

    @cached_property
    def _scratch(self) -> Path:
        return scratch_of(self._home)

    def snapshot(self, table: str, constitution_version: str | None = None) -> TableSnapshot:
        """The table as it is now.

        Raises LakeError when it was never materialized (for that version): an empty table is not the same.
        """
        if not self.materialized(table, constitution_version):
            raise never_materialized(table, constitution_version)
        return TableSnapshot(self, table, constitution_version, self.current_snapshot())

    def materialized(self, table: str, constitution_version: str | None = None) -> bool:
        """Whether the table (of that version, or of any) was ever committed."""
        query = "SELECT 1 FROM lake.materializations WHERE table_name = ?"
        parameters = [table]
        if constitution_version is not None:
            query, parameters = f"{query} AND constitution_version = ?", [table, constitution_version]
        return bool(retry_conflicts(lambda: self._connection.execute(f"{query} LIMIT 1", parameters).fetchall()))

    def snapshot_in_run(
        self, table: str, constitution_version: str | None, run_id: str, began_at: int
    ) -> TableSnapshot | None:
        """The table as a run reads it: as the run itself made it last, or else as it was at the snapshot `began_at`.

        None where it (or that version of it) had not been materialized then.
        """
        of_table = "table_name = $table AND ($version IS NULL OR constitution_version = $version)"
        query = f"""
            SELECT max(snapshot_id) FILTER (run_id = $run) AS own, min(snapshot_id) AS first
            FROM lake.materializations WHERE {of_table}
        """
        parameters = {"table": table, "version": constitution_version, "run": run_id}
        own, first = self.select(query, parameters).row(0)
        if own is None and (first is None or first > began_at):
            return None
        return TableSnapshot(self, table, constitution_version, began_at if own is None else own)

    def current_snapshot(self) -> int:
        """The id of the newest snapshot."""
        return self.select("SELECT id FROM ducklake_current_snapshot('lake')", {}).item()

    def data_version_of(self, snapshot: TableSnapshot) -> str:
        """The data version of a snapshot's rows: that of the materialization that wrote them."""
        of_table = "table_name = $table AND constitution_version IS NOT DISTINCT FROM $version"
        newest = newest_materializations(of_table, snapshot.snapshot_id)
        parameters = {"table": snapshot.table, "version": snapshot.constitution_version}
        return self.select(f"SELECT data_version FROM ({newest})", parameters).item()

    def read(self, snapshot: Rows) -> pl.DataFrame:
        """All rows of a snapshot (or those staged), ordered by the table's key."""
        table = snapshot.table if isinstance(snapshot, StagedRows) else TABLES[snapshot.table]
        key = ", ".join(f'"{column}"' for column in table.key)
        return self.query(f"{select_rows(snapshot)} ORDER BY {key}")

    def rejected(self, table: str, constitution_version: str | None = None) -> pl.DataFrame:
        """The rows that the table's last materialization (for that version) set aside."""
        query = (
            "FROM lake.rejected_rows WHERE table_name = $table AND constitution_version IS NOT DISTINCT FROM $version "
            "ORDER BY row_id, reason"
        )
        return self.select(query, {"table": table, "version": constitution_version})

    def query(self, sql: str, /, **tables: Rows) -> pl.DataFrame:
        """The result of a SELECT in which each keyword names a table's snapshot, or rows staged for it."""
        return retry_conflicts(lambda: self._connection.execute(with_tables(sql, tables)).pl())

    def select(self, sql: str, parameters: Mapping[str, Any]) -> pl.DataFrame:
        """The result of a SELECT on the lake as it is now (tables are `lake.<name>`), with named parameters."""
        return retry_conflicts(lambda: self._connection.execute(sql, dict(parameters)).pl())

    def stream(self, sql: str, /, **tables: Rows) -> Iterator[dict[str, Any]]:
        """The rows of a SELECT, a dict each, in constant memory."""
        with self._copied(sql, tables) as file:
            parquet: Any = pyarrow.parquet.ParquetFile(file)
            for batch in parquet.iter_batches(STREAM_ROWS):
                yield from pl.DataFrame(batch).iter_rows(named=True)

    @contextlib.contextmanager
    def scan(self, snapshot: Rows) -> Generator[pl.LazyFrame]:
        """All rows of a snapshot, lazily and in no order: for what is too large to have in memory."""
        with self._copied(select_rows(snapshot), {}, ordered=False) as file:
            yield pl.scan_parquet(file)

    def parts(
        self, column: str, rows: int, selects: Mapping[str, str], /, **tables: Rows
    ) -> Iterator[dict[str, pl.DataFrame]]:
        """The rows of several SELECTs in parts, in the order of a column: memory does not grow with their number.

        The column is an id, a hash. A part has about `rows` rows of the first SELECT at most, and all rows of the
        others whose ids begin as those do; what no row of the first SELECT begins like is left out.
        """
        first = next(iter(selects))
        digits, part_of = self._part_of_beginnings(f"SELECT {column} AS id FROM ({selects[first]})", rows, tables)
        if not part_of:
            return

        @cache
        def nothing(name: str) -> pl.DataFrame:
            return self.query(f"FROM ({selects[name]}) LIMIT 0", **tables)

        numbered = ", ".join(f"({literal(beginning)}, {part})" for beginning, part in part_of.items())
        parts = f"JOIN (VALUES {numbered}) parts(beginning, part) ON selected.{column}[:{digits}] = parts.beginning"
        with contextlib.ExitStack() as copies:
            folders: dict[str, Path] = {}
            for name, sql in selects.items():
                numbered_rows = f"SELECT selected.*, parts.part FROM ({sql}) selected {parts}"
                copy = self._copied(numbered_rows, tables, ordered=False, options="PARTITION_BY (part), OVERWRITE")
                folders[name] = copies.enter_context(copy)
            for part in sorted(set(part_of.values())):
                found = {name: sorted(folder.glob(f"part={part}/*.parquet")) for name, folder in folders.items()}
                yield {
                    name: pl.read_parquet(files, hive_partitioning=False).sort(column) if files else nothing(name)
                    for name, files in found.items()
                }

    def _part_of_beginnings(self, ids: str, rows: int, tables: Mapping[str, Rows]) -> tuple[int, dict[str, int]]:
        """How many first digits of ids tell parts apart, and the part of each beginning of so many digits.

        Beginnings that follow each other are one part as long as they have at most `rows` rows together.
        """

        def counted(digits: int) -> pl.DataFrame:
            shared = f"SELECT id[:{digits}] AS beginning, count(*) AS n FROM ({ids}) GROUP BY 1 ORDER BY 1"
            return self.query(shared, **tables)

        digits, found = 0, counted(0)
        while digits < _MOST_DIGITS and any(count > rows for count in found["n"]):
            digits += 1
            found = counted(digits)
        part_of: dict[str, int] = {}
        part, held = 0, 0
        for beginning, count in found.iter_rows():
            if held and held + count > rows:
                part, held = part + 1, 0
            part_of[beginning], held = part, held + count
        return digits, part_of

    @contextlib.contextmanager
    def _copied(
        self,
        sql: str,
        tables: Mapping[str, Rows],
        ordered: bool = True,
        options: str = f"ROW_GROUP_SIZE {COPIED_ROWS}",
    ) -> Generator[Path]:
        """The rows of a SELECT in a file: a result read slowly would hold the catalog's read lock for hours.

        Where nobody asks for their order, the copy needs half the time and a third of the memory. With PARTITION_BY
        among the options it is a folder of files.
        """
        _ = self._connection
        with scratch_folder(self._scratch) as folder:
            rows = folder / "rows.parquet"
            copy = f"COPY ({with_tables(sql, tables)}) TO {literal(rows)} (FORMAT parquet, {options})"
            with full_disk_named(self._home.root, temporary_scratch()):
                retry_conflicts(lambda: self._copy(copy, ordered))
            yield rows

    def _copy(self, statement: str, ordered: bool) -> None:
        try:
            with _little_memory(self._connection, ordered):
                self._connection.execute(statement)
        except duckdb.Error as error:
            if is_conflict(error):
                raise
            # Very long texts need more memory. DuckLake says so in several ways and keeps what failed: anew, unbounded.
            self._reconnect()
            self._connection.execute(statement)

    def count(self, sql: str, /, **tables: Rows) -> int:
        """How many rows a SELECT has."""
        return self.query(f"SELECT count(*) AS n FROM ({sql})", **tables).item()

    def data_versions(self, snapshot: TableSnapshot) -> dict[str | None, str]:
        """The data version that a table's rows have, of each constitution version with rows."""
        version = "constitution_version" if TABLES[snapshot.table].versioned else "NULL"
        listed = ", ".join(f'r."{name}"' for name in TABLES[snapshot.table].schema)
        query = f"SELECT {version}, count(*), sum(hash(row({listed}))::HUGEINT) FROM rows r GROUP BY 1"
        return {one: _data_version(count, total) for one, count, total in self.query(query, rows=snapshot).iter_rows()}

    def _counted(self, rows: str) -> tuple[int, str]:
        """How many rows there are, and their data version; `rows` is what follows FROM."""
        query = f"SELECT count(*), sum(hash(r)::HUGEINT) FROM {rows} r"
        count, total = self._connection.execute(query).fetchall()[0]
        return count, _data_version(count, total)

    def close(self) -> None:
        """Close the catalog; the next use opens it anew."""
        if "_connection" in self.__dict__:
            self._reconnect()

    def _reconnect(self) -> None:
        """Let the next statement open the catalog anew.

        After a COMMIT that found the catalog locked, DuckLake keeps a SQLite connection with a lock of its own: it
        would shut out every other process, and every further attempt of this one.
        """
        self._connection.close()
        del self.__dict__["_connection"]


@contextlib.contextmanager
def _little_memory(connection: duckdb.DuckDBPyConnection, ordered: bool) -> Generator[None]:
    """Bound the memory of a statement, and let its rows come in any order unless they are `ordered`."""
    (threads,) = connection.execute("SELECT current_setting('threads')::INTEGER").fetchall()[0]
    connection.execute(f"SET preserve_insertion_order = {ordered}")
    connection.execute(f"SET partitioned_write_flush_threshold = {COPIED_ROWS}")
    connection.execute("SET partitioned_write_max_open_files = 1000")  # what is opened again is another file
    try:
        with contextlib.suppress(duckdb.OutOfMemoryException):  # where as much is taken now
            connection.execute(f"SET memory_limit = '{MEGABYTES_A_THREAD * threads}MB'")
        yield
    finally:
        connection.execute("RESET memory_limit")
        connection.execute("SET preserve_insertion_order = true")


def _overflow_into_scratch(connection: duckdb.DuckDBPyConnection) -> None:
    """Have what does not fit in memory overflow into temporary files, which go with the connection.

    What DuckDB has done with goes back to the system at once: polars, which reads its copies, needs the room.
    """
    connection.execute("SET allocator_background_threads = true")
    overflow = new_scratch_folder(temporary_scratch())
    weakref.finalize(connection, remove_scratch_folder, overflow)
    connection.execute(f"SET temp_directory = {literal(overflow)}")


def _data_version(rows: int, hashes: int | None) -> str:
    return "empty" if hashes is None else f"{rows}-{int(hashes):x}"


def never_materialized(table: str, constitution_version: str | None, when: str = "") -> LakeError:
    """The error for a table (or that version of it) that is not there; `when` says where that is not now."""
    version = f" for constitution version {constitution_version!r}" if constitution_version else ""
    return LakeError(f"{table} {'had' if when else 'has'} not been materialized{version}{when}; materialize it first")
