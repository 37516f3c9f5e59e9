"""The lake's catalog as the database that it is: a SQLite file of the home, or a PostgreSQL database of many hosts.

Which of the two it is stands here and nowhere else: how DuckLake finds it, what locks it, and its rows.
"""

# pyright: reportMissingTypeStubs=false

import contextlib
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from cai_dagster.disk import read_only_uri
from cai_dagster.home import Home
from cai_dagster.lake.connection import RETRY_SECONDS, LakeError, literal

if TYPE_CHECKING:
    import duckdb

SMALLEST_TEXT, LARGEST_TEXT = "", "\U0010ffff"


def is_begun(home: Home) -> bool:
    """Whether there is a catalog. SQLite makes an empty file of one that was opened and never written."""
    if home.shared_catalog is None:
        return home.catalog.exists() and home.catalog.stat().st_size > 0
    return bool(rows_of_catalog(home, "SELECT 1 FROM pg_tables WHERE tablename = 'ducklake_metadata'"))


def catalog_named(home: Home) -> str:
    """The catalog as messages name it, without a password."""
    if home.shared_catalog is None:
        return str(home.catalog)
    from cai_dagster.lake.postgresql import shown

    return shown(home.shared_catalog)


def commit_lock(home: Home) -> contextlib.AbstractContextManager[Any]:
    """Held around what changes the lake, by one process of all hosts at a time.

    It keeps expiry and commits apart. It is also for speed: commits that collide back off for seconds.
    """
    if home.shared_catalog is None:
        return FileLock(f"{home.catalog}.lock")
    from cai_dagster.lake.postgresql import LAKE_COMMIT, advisory_lock

    return advisory_lock(home.shared_catalog, LAKE_COMMIT)


def creation_lock(home: Home) -> contextlib.AbstractContextManager[Any]:
    """Held while a shared catalog is attached to be written: several hosts may find that there is none yet."""
    if home.shared_catalog is None:
        return contextlib.nullcontext()
    from cai_dagster.lake.postgresql import LAKE_CREATION, advisory_lock

    return advisory_lock(home.shared_catalog, LAKE_CREATION)


@contextlib.contextmanager
def reading(file: Path) -> Generator[sqlite3.Connection]:
    """A SQLite database, for reading only."""
    with contextlib.closing(sqlite3.connect(read_only_uri(file), uri=True)) as connection:
        yield connection


def rows_of_catalog(home: Home, sql: str) -> Sequence[tuple[Any, ...]]:
    """The rows of a SELECT on the catalog's own tables. Raises LakeError where they cannot be read."""
    if home.shared_catalog is None:
        try:
            with reading(home.catalog) as connection:
                return connection.execute(sql).fetchall()
        except sqlite3.DatabaseError as error:
            raise LakeError(f"{home.catalog} is no catalog that this program reads: {error}") from error
    from cai_dagster.lake.postgresql import DatabaseError, rows

    try:
        return rows(home.shared_catalog, sql)
    except DatabaseError as error:
        raise LakeError(str(error)) from error


def widen_text_bounds(home: Home) -> None:
    """Replace the bounds of each text column of a table by bounds that hold for every text.

    DuckLake only ever extends a table's bounds, so they may quote a row that was deleted. NULL is no bound that it
    extends: the next commit would replace it by the bounds of its own rows, and every filter would miss the others.
    The bounds of files stay: they quote rows that the files still have. VACUUM overwrites what was freed.
    """
    columns = "SELECT table_id, column_id FROM ducklake_column WHERE column_type = 'varchar'"
    widen = f"""
        UPDATE ducklake_table_column_stats SET min_value = '{SMALLEST_TEXT}', max_value = '{LARGEST_TEXT}'
        WHERE (table_id, column_id) IN ({columns})
    """
    if home.shared_catalog is None:
        with contextlib.closing(sqlite3.connect(home.catalog, timeout=RETRY_SECONDS)) as connection:
            connection.execute(widen)
            connection.commit()
            connection.execute("VACUUM")
        return
    from cai_dagster.lake.postgresql import connections

    with connections(home.shared_catalog).connect() as connection:
        own = connection.execution_options(isolation_level="AUTOCOMMIT")
        own.exec_driver_sql(widen)
        for (table,) in own.exec_driver_sql("SELECT tablename FROM pg_tables WHERE tablename LIKE 'ducklake%%'").all():
            own.exec_driver_sql(f'VACUUM FULL "{table}"')


def attach_statement(connection: "duckdb.DuckDBPyConnection", home: Home, options: Mapping[str, str]) -> str:
    """The statement that attaches the catalog as `lake`. The password, if any, is a secret of the connection."""
    # A home may be moved: the path that the catalog notes is not taken.
    options = {"data_path": literal(home.tables_named), "override_data_path": "true", **options}
    source = f"sqlite:{home.catalog}"
    if home.shared_catalog is not None:
        import sqlalchemy as sa

        url = sa.make_url(home.shared_catalog)
        parts = {"host": url.host, "port": url.port, "dbname": url.database, "user": url.username, **url.query}
        source = "postgres:" + " ".join(f"{name}={_of_libpq(str(value))}" for name, value in parts.items() if value)
        if url.password:
            secret = f"TYPE postgres, PASSWORD {literal(str(url.password))}"
            connection.execute(f"CREATE OR REPLACE SECRET shared_catalog ({secret})")
            options["meta_secret"] = "'shared_catalog'"  # noqa: S105  (its name)
    listed = ", ".join(f"{name} {value}".strip() for name, value in options.items())
    return f"ATTACH {literal(f'ducklake:{source}')} AS lake ({listed})"


def _of_libpq(value: str) -> str:
    """A value in a connection string of PostgreSQL's client library."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
