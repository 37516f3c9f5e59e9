"""The catalog: attached, and its tables created."""

# pyright: reportMissingTypeStubs=false

import contextlib
from collections.abc import Callable

import duckdb

from cai_dagster.disk import is_read_only
from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import attach_statement, creation_lock, is_begun
from cai_dagster.lake.connection import LakeError, retry_conflicts
from cai_dagster.lake.reader import has_committed_files, lost_catalog, unreadable_catalog
from cai_dagster.tables.registry import TABLES

INLINED_ROWS = 10  # of an appended table, at once: they stay in the catalog, and no file of one row is made


def attach(connection: duckdb.DuckDBPyConnection, home: Home) -> None:
    """Attach the catalog as `lake` and create the tables that are missing.

    Raises LakeError when the catalog is damaged, gone, or was written by another version of DuckLake or of this
    program.
    """
    # Inlined rows reserve the column name row_id, which rejected_rows has.
    options = {"data_inlining_row_limit": "0"}
    read_only = is_read_only(home.root)
    try:
        with creation_lock(home):
            begun = is_begun(home)
            with_tables = (begun and home.shared_catalog is not None) or has_committed_files(home)
            if with_tables and not begun:
                raise lost_catalog(home)
            if read_only:
                options["read_only"] = ""
            elif with_tables:  # then there is a catalog, or a copy of one: a new one would call them orphans
                options["create_if_not_exists"] = "false"
            statement = attach_statement(connection, home, options)
            retry_conflicts(lambda: connection.execute(statement))
            if not read_only:
                retry_conflicts(lambda: in_transaction(connection, lambda: _create_missing_tables(connection)))
                retry_conflicts(lambda: _inline_appended_rows(connection))
    except duckdb.Error as error:
        raise unreadable_catalog(home, error) from error


def in_transaction(connection: duckdb.DuckDBPyConnection, work: Callable[[], None]) -> None:
    """Run `work` in a transaction, which is rolled back where it fails."""
    connection.execute("BEGIN")
    try:
        work()
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # a failed COMMIT has rolled back already
            connection.execute("ROLLBACK")
        raise


def _create_missing_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables that are missing. Raises LakeError when a table has other columns than its declaration."""
    query = "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns() "
    query += "WHERE database_name = 'lake' GROUP BY table_name"
    present = dict(connection.execute(query).fetchall())
    for name, table in TABLES.items():
        declared = list(table.names)
        if name not in present:
            connection.register("empty", table.schema.to_frame())
            connection.execute(f"CREATE TABLE IF NOT EXISTS lake.{name} AS FROM empty")
        elif present[name] != declared:
            raise LakeError(
                f"the table {name} has the columns {present[name]}, this version of cai_dagster writes {declared}; "
                "set CAI_HOME to a new folder, or use the version that wrote it"
            )


def _inline_appended_rows(connection: duckdb.DuckDBPyConnection) -> None:
    """Have rows that come one at a time kept in the catalog; a table's option can be set once its creation is known."""
    query = "SELECT scope_entry FROM lake.options() WHERE option_name = 'data_inlining_row_limit' AND scope = 'TABLE'"
    inlined = {entry for (entry,) in connection.execute(query).fetchall()}
    for table in TABLES.values():
        if table.appended and f"main.{table.name}" not in inlined:
            option = f"'data_inlining_row_limit', {INLINED_ROWS}, table_name => '{table.name}'"
            connection.execute(f"CALL lake.set_option({option})")
