"""The catalog: the lake's DuckDB connection, how it is shared with other processes, and a way to read without more.

`lake` builds on it. What only looks (a command that has to answer at once) reads through `LakeReader`: it needs neither
the tables' models nor polars, whose import takes longer than the look.
"""

# pyright: reportMissingTypeStubs=false

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import duckdb_extension_ducklake
import duckdb_extension_sqlite_scanner
import tenacity

from cai_dagster.errors import MendableError
from cai_dagster.home import Home

RETRY_SECONDS = 120
_OTHER_VERSION = (
    "Another version of DuckLake wrote it: use the version of cai_dagster that did, or set CAI_HOME to a new folder."
)
_RESTORE = (
    "Put a copy of it back, or set CAI_HOME to a new folder and copy ledger.sqlite there: the tables are then made "
    "again without paying for a completion."
)

Result = TypeVar("Result")


class LakeError(MendableError):
    """The lake cannot do what was asked; the message says why and what to do."""


class LakeReader:
    """The tables in one home as they are now, read only. Creates nothing and changes nothing."""

    def __init__(self, home: Home) -> None:
        self._home = home

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        connection = connect()
        attach(connection, self._home, "READ_ONLY")
        return connection

    @cached_property
    def tables(self) -> frozenset[str]:
        """The tables that are there: none before the first run, and not the newest in a lake of an older program."""
        if not (self._home.catalog.exists() and self._home.catalog.stat().st_size):
            return frozenset()
        query = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'"
        return frozenset(row["table_name"] for row in self.rows(query))

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The rows of a SELECT (tables are `lake.<name>`), with named parameters."""

        def read() -> list[dict[str, Any]]:
            found = self._connection.execute(sql, dict(parameters or {}))
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

        return retry_conflicts(read)


def connect() -> duckdb.DuckDBPyConnection:
    """A connection that knows DuckLake, nothing attached to it."""
    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")  # it would be drawn across the log
    for package in (duckdb_extension_ducklake, duckdb_extension_sqlite_scanner):
        for file in Path(package.__path__[0]).rglob("*.duckdb_extension"):
            connection.execute(f"LOAD {literal(file)}")
    return connection


def attach(connection: duckdb.DuckDBPyConnection, home: Home, *options: str) -> None:
    """Attach the catalog as `lake`.

    Raises LakeError when it is damaged, gone, or was written by another version of DuckLake.
    """
    if not (home.catalog.exists() and home.catalog.stat().st_size) and _has_committed_files(home):
        raise LakeError(f"the catalog {home.catalog} is gone, but the tables that it described are not. {_RESTORE}")
    source = literal(f"ducklake:sqlite:{home.catalog}")
    # A home may be moved. Inlined rows reserve the column name row_id, which rejected_rows has.
    given = (f"DATA_PATH {literal(home.tables)}", "OVERRIDE_DATA_PATH true", "DATA_INLINING_ROW_LIMIT 0", *options)
    with_advice(
        home, lambda: retry_conflicts(lambda: connection.execute(f"ATTACH {source} AS lake ({', '.join(given)})"))
    )


def with_advice(home: Home, work: Callable[[], Result]) -> Result:
    """Do something with the catalog. Raises LakeError, which says what to do, where it cannot be read."""
    try:
        return work()
    except duckdb.Error as error:
        if is_conflict(error):
            raise
        advice = _OTHER_VERSION if "version mismatch" in str(error) else _RESTORE
        raise LakeError(f"the catalog {home.catalog} cannot be read. {advice} DuckDB says: {error}") from error


def is_conflict(error: BaseException) -> bool:
    """Whether another process got in between: nothing is lost, and a second attempt can succeed."""
    text = str(error).lower()
    return isinstance(error, duckdb.Error) and ("locked" in text or "conflict" in text)


def retry_conflicts(work: Callable[[], Result]) -> Result:
    """Do it again, with growing pauses, while other processes get in between."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_conflict),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=2),
        stop=tenacity.stop_after_delay(RETRY_SECONDS),
        reraise=True,
    )
    return retrying(work)


def literal(value: str | Path) -> str:
    """A text as SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def _has_committed_files(home: Home) -> bool:
    """Whether there are files that `Lake.commit` moved in; DuckLake's own, of empty tables, do not count."""
    return any(not file.name.startswith("ducklake-") for file in home.tables.rglob("*.parquet"))
