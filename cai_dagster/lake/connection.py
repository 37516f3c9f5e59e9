"""A DuckDB connection as the lake needs it: its extensions, texts as SQL, and what is tried again."""

# pyright: reportMissingTypeStubs=false

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from urllib.parse import urlsplit

import duckdb
import duckdb_extension_ducklake
import duckdb_extension_sqlite_scanner

from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake.server_errors import is_away

RETRY_SECONDS = 120

Result = TypeVar("Result")


class LakeError(MendableError):
    """The lake cannot do what was asked; the message says why and what to do."""


def started_duckdb(home: Home | None = None) -> duckdb.DuckDBPyConnection:
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
    _load(connection, duckdb_extension_ducklake, duckdb_extension_sqlite_scanner)
    if home is not None and home.shared_catalog is not None:
        _load(connection, *_installed("a shared catalog", "postgres", "duckdb_extension_postgres_scanner"))
    if home is not None and not home.tables_are_local:
        _use_object_storage(connection)
    return connection


def _load(connection: duckdb.DuckDBPyConnection, *packages: ModuleType) -> None:
    for package in packages:
        for file in Path(package.__path__[0]).rglob("*.duckdb_extension"):
            connection.execute(f"LOAD {literal(file)}")


def _installed(what: str, requirements: str, *packages: str) -> list[ModuleType]:
    try:
        return [import_module(package) for package in packages]
    except ModuleNotFoundError:
        raise LakeError(f"{what} needs: pip install --no-deps -r requirements/{requirements}.txt") from None


def _use_object_storage(connection: duckdb.DuckDBPyConnection) -> None:
    """Keys come from the cloud's own chain (environment, files, roles), and an endpoint from AWS_ENDPOINT_URL.

    A secret and no settings: DuckLake cleans up on a connection of its own.
    """
    _load(connection, *_installed("data on S3", "s3", "duckdb_extension_httpfs", "duckdb_extension_aws"))
    options = "TYPE s3, PROVIDER credential_chain, REFRESH auto"
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        url = urlsplit(endpoint)
        secure = str(url.scheme == "https").lower()
        options += f", ENDPOINT {literal(url.netloc)}, URL_STYLE 'path', USE_SSL {secure}"
    connection.execute(f"CREATE OR REPLACE SECRET object_storage ({options})")
    for setting in ("http_retries = 9", "http_retry_backoff = 2", "http_retry_wait_ms = 200"):  # up to 51 seconds
        connection.execute(f"SET {setting}")


def literal(value: str | Path) -> str:
    """A text as it stands in SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def is_conflict(error: BaseException) -> bool:
    """Whether another process got in between, or the catalog's server was away: what was tried can be tried again."""
    text = str(error).lower()
    return isinstance(error, duckdb.Error) and ("locked" in text or "conflict" in text or is_away(error))


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
        if is_away(error):
            away = f"the server of the lake's catalog has not answered for {RETRY_SECONDS} seconds ({error})"
            raise LakeError(f"{away}. Start it, and run the same command again.") from error
        raise LakeError(
            f"the lake's catalog has been in use by another process for {RETRY_SECONDS} seconds ({error}). Let that "
            "process end, or stop it, and run the same command again."
        ) from error
