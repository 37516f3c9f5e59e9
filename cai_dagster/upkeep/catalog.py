"""The lake's catalog read as the database file that it is: the files and snapshots that it names."""

# pyright: reportMissingTypeStubs=false

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import is_begun, reading, rows_of_catalog
from cai_dagster.lake.connection import LakeError
from cai_dagster.lake.reader import restore
from cai_dagster.profiles import active_profile
from cai_dagster.project import PROJECT
from cai_dagster.upkeep.findings import Finding, problem, quoted, some_of

NAMED = 3  # of many, so many are named


@dataclass(frozen=True)
class CatalogFile:
    """A Parquet file as the catalog names it; `current`: the latest snapshot reads it."""

    path: Path
    bytes: int
    current: bool


def examine_catalog(home: Home) -> list[Finding]:
    """What is wrong with the catalog's database; nothing where it is sound, or not begun yet."""
    if home.shared_catalog is None:
        return examine_database("lake", home.catalog, restore(home))
    try:
        rows_of_catalog(home, "SELECT 1")
    except LakeError as error:
        return [problem("lake", str(error), "start the server, or name the right one in CAI_CATALOG or [storage]")]
    return []


def examine_database(topic: str, file: Path, remedy: str) -> list[Finding]:
    """What SQLite says against a database file; nothing where it is sound, or not there."""
    if not file.exists():
        return []
    try:
        with reading(file) as connection:
            said = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.DatabaseError as error:
        said = [str(error)]
    if said == ["ok"]:
        return []
    return [problem(topic, f"{file} is damaged: {'; '.join(said)}", remedy)]


def command_to_materialize(home: Home, table: str, version: str) -> str:
    """The command that makes a table of a version again, with the profile in use."""
    command = f"dagster asset materialize -m cai_dagster.definitions --select 'key:{table}' --partition {version}"
    return (
        f"cd {quoted(PROJECT)} && CAI_PROFILE={quoted(active_profile())} DAGSTER_HOME={quoted(home.dagster)} {command}"
    )


def catalog_files(home: Home) -> list[CatalogFile]:
    """Every file that any snapshot names; those that are scheduled for deletion too.

    Raises LakeError where the catalog cannot be read.
    """
    query = """
        SELECT f.path, f.path_is_relative, f.file_size_bytes, f.end_snapshot IS NULL AND t.end_snapshot IS NULL,
            s.path, s.path_is_relative, t.path, t.path_is_relative
        FROM {files} f JOIN ducklake_table t USING (table_id) JOIN ducklake_schema s USING (schema_id)
    """
    found: list[CatalogFile] = []
    place_of = type(home.tables)  # a whole path is one on the same storage
    for files in ("ducklake_data_file", "ducklake_delete_file"):
        for path, relative, size, current, *folders in rows_of_catalog(home, query.format(files=files)):
            place = home.tables
            for folder, is_relative in (folders[:2], folders[2:], (path, relative)):
                place = place / folder if is_relative else place_of(folder)
            found.append(CatalogFile(place, size, bool(current)))
    scheduled = "SELECT path, path_is_relative FROM ducklake_files_scheduled_for_deletion"
    for path, relative in rows_of_catalog(home, scheduled):
        file = home.tables / path if relative else place_of(path)
        if file.exists():
            found.append(CatalogFile(file, file.stat().st_size, current=False))
    return found


def snapshots_of(home: Home) -> set[int] | None:
    """The snapshots there are; None where nobody can tell."""
    try:
        if not is_begun(home):
            return None
        return {row[0] for row in rows_of_catalog(home, "SELECT snapshot_id FROM ducklake_snapshot")}
    except LakeError:
        return None


def files_named(paths: Iterable[Path]) -> str:
    """Some files, by folder and name."""
    return some_of((f"{path.parent.name}/{path.name}" for path in paths), NAMED)
