"""Reading the lake at once, for commands that answer within a second: no polars, no pandera, nothing is written.

How DuckDB is started, how a text becomes SQL and how a conflict is waited out is here too; `lake`, which writes, uses
the same. It knows no tables but those it is asked about.
"""

# pyright: reportMissingTypeStubs=false

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import duckdb_extension_ducklake
import duckdb_extension_sqlite_scanner

from cai_dagster.errors import MendableError
from cai_dagster.home import Home

RETRY_SECONDS = 120

_PARAMETER = re.compile(r"\$([a-z_]+)")

Result = TypeVar("Result")
Row = dict[str, Any]


RESTORE = (
    "Put a copy of it back, or set CAI_HOME to a new folder and copy ledger.sqlite* there: the tables are then made "
    "again without paying for a completion."
)
LOST_CATALOG = f"the catalog {{catalog}} is gone, but the tables that it described are not. {RESTORE}"


OTHER_VERSION = (
    "Another version of DuckLake wrote it: use the version of cai_dagster that did, or set CAI_HOME to a new folder."
)


class LakeError(MendableError):
    """The lake cannot do what was asked; the message says why and what to do."""


class NoSuchSnapshotError(LakeError):
    """A snapshot that is asked for is not in the lake: it has been expired."""


class LakeReader:
    """The tables in one home as they are at the first look (`lake.<name>`), for reading.

    The look is one transaction, which other processes' commits wait for: for commands that end soon.
    """

    def __init__(self, home: Home) -> None:
        if not home.catalog.exists():
            if has_committed_files(home):
                raise LakeError(LOST_CATALOG.format(catalog=home.catalog))
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
        connection = started_duckdb()
        options = f"READ_ONLY, DATA_PATH {literal(self._home.tables)}, OVERRIDE_DATA_PATH true"
        connection.execute(f"ATTACH {literal(f'ducklake:sqlite:{self._home.catalog}')} AS lake ({options})")
        return connection.execute("BEGIN")


def unreadable_catalog(home: Home, error: duckdb.Error) -> LakeError:
    """The error for a catalog that DuckDB cannot attach: damaged, or written by another version of DuckLake."""
    advice = OTHER_VERSION if "version mismatch" in str(error) else RESTORE
    return LakeError(f"the catalog {home.catalog} cannot be read. {advice} DuckDB says: {error}")


def has_committed_files(home: Home) -> bool:
    """Whether there are files that `Lake.commit` moved in; DuckLake's own, of empty tables, do not count."""
    return any(not file.name.startswith("ducklake-") for file in home.tables.rglob("*.parquet"))


def started_duckdb() -> duckdb.DuckDBPyConnection:
    """DuckDB with the extensions that the lake needs, and no way to others.

    They are files of installed packages, like DuckDB itself and this program: to check their signatures at each start
    would take half a second and protect from nobody who could not change DuckDB as well.
    """
    connection = duckdb.connect(
        config={
            "allow_unsigned_extensions": True,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    connection.execute("SET enable_progress_bar = false")  # it would be drawn across the log
    for package in (duckdb_extension_ducklake, duckdb_extension_sqlite_scanner):
        for file in Path(package.__path__[0]).rglob("*.duckdb_extension"):
            connection.execute(f"LOAD {literal(file)}")
    return connection


def literal(value: str | Path) -> str:
    """A text as it stands in SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def _values(parameter: str | Sequence[str]) -> str:
    if isinstance(parameter, str):
        return literal(parameter)
    return ", ".join(map(literal, parameter)) or "NULL"


def is_conflict(error: BaseException) -> bool:
    """Whether another process got in between: what was tried can be tried again."""
    text = str(error).lower()
    return isinstance(error, duckdb.Error) and ("locked" in text or "conflict" in text)


def retry_conflicts(work: Callable[[], Result]) -> Result:
    """The result of `work`, which is tried again while other processes get in between.

    Raises LakeError when they have done so for two minutes.
    """
    try:
        return work()
    except duckdb.Error as error:
        if not is_conflict(error):
            raise
    import tenacity

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_conflict),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=2),
        stop=tenacity.stop_after_delay(RETRY_SECONDS),
        reraise=True,
    )
    try:
        return retrying(work)
    except duckdb.Error as error:
        if not is_conflict(error):
            raise
        raise LakeError(
            f"the lake's catalog has been in use by another process for {RETRY_SECONDS} seconds ({error}). Let that "
            "process end, or stop it, and run the same command again."
        ) from error
