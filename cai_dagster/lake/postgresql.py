"""A PostgreSQL database that hosts share: connections to it, and its advisory locks."""

import contextlib
from collections.abc import Generator
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from cai_dagster.errors import MendableError
from cai_dagster.lake.lost_connections import waits_for_the_server

POSTGRESQL = "postgresql+psycopg2"
"""The dialect of every PostgreSQL URL here: SQLAlchemy takes another driver than Dagster's storage for `postgresql://`."""
LEDGER_SCHEMA, LEDGER_FORGETTING, LAKE_COMMIT, LAKE_CREATION, FORGOTTEN_LIST = range(0x0CA1_0001, 0x0CA1_0006)
"""Keys of advisory locks."""


class DatabaseError(MendableError):
    """The database that hosts share cannot be used; the message says why."""


@cache
def connections(url: str) -> sa.Engine:
    """Connections that are tested before use, since a server may be started again.

    Raises DatabaseError where the URL cannot be read or the driver is not installed.
    """
    try:
        return sa.create_engine(sa.make_url(url).set(drivername=POSTGRESQL), pool_pre_ping=True)
    except ArgumentError:
        raise DatabaseError("a URL of [storage] cannot be read; write postgresql://user@host/database") from None
    except ModuleNotFoundError:
        install = "pip install --no-deps -r requirements/postgres.txt"
        raise DatabaseError(f"a database that hosts share needs the driver of PostgreSQL: {install}") from None


def shown(url: str) -> str:
    """The URL without its password."""
    return sa.make_url(url).render_as_string()


def rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a SELECT. Raises DatabaseError where the server does not answer for long, or refuses."""
    with _errors_named(url):
        return _rows(url, sql)


@contextlib.contextmanager
def advisory_lock(url: str, key: int) -> Generator[None]:
    """Hold a lock of the database, which every host waits for. It ends with the connection.

    Raises DatabaseError as `rows` does.
    """
    with _errors_named(url):
        connection = _locked(url, key)
    try:
        yield
    finally:
        with contextlib.suppress(DBAPIError):  # where the connection was lost, so was the lock
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({key})")
        with contextlib.suppress(DBAPIError):
            connection.close()


@contextlib.contextmanager
def _errors_named(url: str) -> Generator[None]:
    try:
        yield
    except DBAPIError as error:
        raise DatabaseError(f"the database {shown(url)} cannot be used: {error.orig}") from error


@waits_for_the_server
def _rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    with connections(url).connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]


@waits_for_the_server
def _locked(url: str, key: int) -> sa.Connection:
    connection = connections(url).connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({key})")
    except BaseException:
        connection.close()
        raise
    return connection
