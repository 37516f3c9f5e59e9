"""Reading the lake at once, for commands that answer within a second: no polars, no pandera, nothing is written.

It knows no tables but those it is asked about.
"""

# pyright: reportMissingTypeStubs=false

import re
from collections.abc import Sequence
from typing import Any

import duckdb

from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import attach_statement, catalog_named, is_begun
from cai_dagster.lake.connection import LakeError, literal, retry_conflicts, started_duckdb

_PARAMETER = re.compile(r"\$([a-z_]+)")

Row = dict[str, Any]


OTHER_VERSION = (
    "Another version of DuckLake wrote it: use the version of cai_dagster that did, or set CAI_HOME to a new folder."
)


class NoSuchSnapshotError(LakeError):
    """A snapshot that is asked for is not in the lake: it has been expired."""


class LakeReader:
    """The tables in one home as they are at the first look (`lake.<name>`), for reading.

    The look is one transaction, which other processes' commits wait for: for commands that end soon.
    """

    def __init__(self, home: Home) -> None:
        if not is_begun(home):
            if has_committed_files(home):
                raise lost_catalog(home)
            raise LakeError(f"nothing has been materialized in {home.root} yet (CAI_HOME); materialize something first")
        self._home = home
        try:
            self._connection = retry_conflicts(self._attached)
        except duckdb.Error as error:
            raise unreadable_catalog(home, error) from error

    def rows(self, sql: str, **parameters: str | Sequence[str]) -> list[Row]:
        """The rows of a SELECT. `$name` stands for a text, or for the texts of a list, with commas between them."""
        # Not bound: DuckDB would import numpy and pandas to see what a parameter is.
        statement = _PARAMETER.sub(lambda name: _values(parameters[name.group(1)]), sql)
        try:
            result = retry_conflicts(lambda: self._connection.execute(statement))
            names = [name for name, *_ in result.description]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        except duckdb.Error as error:
            self._connection.execute("ROLLBACK")
            self._connection.execute("BEGIN")
            if "No snapshot found" in str(error):
                raise NoSuchSnapshotError(f"{error}; it has been expired") from error
            if isinstance(error, duckdb.BinderException | duckdb.CatalogException):
                raise LakeError(
                    f"the tables in {self._home.tables} are not those of this version of cai_dagster; set CAI_HOME to "
                    f"a new folder, or use the version that wrote them. DuckDB says: {str(error).splitlines()[0]}"
                ) from error
            raise

    def close(self) -> None:
        """End the look."""
        self._connection.close()

    def _attached(self) -> duckdb.DuckDBPyConnection:
        connection = started_duckdb(self._home)
        connection.execute(attach_statement(connection, self._home, {"read_only": ""}))
        return connection.execute("BEGIN")


def restore(home: Home) -> str:
    """What to do where the catalog or the files of tables are lost: the ledger has all that was paid for."""
    anew = "the tables are then made again without paying for a completion."
    if home.shared_catalog:
        places = "name an empty database in CAI_CATALOG and an empty place in CAI_DATA, and the ledger as it is"
        return f"Put a backup back (docs/deploy.md), or {places}: {anew}"
    return f"Put a copy of it back, or set CAI_HOME to a new folder and copy ledger.sqlite* there: {anew}"


def lost_catalog(home: Home) -> LakeError:
    """The error for tables without the catalog that described them."""
    lost = f"the catalog {catalog_named(home)} is gone, but the tables that it described are not"
    return LakeError(f"{lost}. {restore(home)}")


def unreadable_catalog(home: Home, error: duckdb.Error) -> LakeError:
    """The error for a catalog that DuckDB cannot attach: damaged, or written by another version of DuckLake."""
    advice = OTHER_VERSION if "version mismatch" in str(error) else restore(home)
    return LakeError(f"the catalog {catalog_named(home)} cannot be read. {advice} DuckDB says: {error}")


def has_committed_files(home: Home) -> bool:
    """Whether there are files that `Lake.commit` moved in; DuckLake's own, of empty tables, do not count.

    Raises LakeError where the object storage does not answer.
    """
    try:
        return any(not file.name.startswith("ducklake-") for file in home.tables.rglob("*.parquet"))
    except FileNotFoundError as error:
        raise LakeError(f"{home.tables} is not there ({error}); make the bucket first") from error
    except Exception as error:
        if home.tables_are_local:
            raise
        raise LakeError(f"{home.tables} cannot be listed: {error}") from error


def _values(parameter: str | Sequence[str]) -> str:
    if isinstance(parameter, str):
        return literal(parameter)
    return ", ".join(map(literal, parameter)) or "NULL"
