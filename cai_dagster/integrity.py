"""Whether what lies in a home fits together: the lake's catalog and its files, the ledger, the checkpoints.

The databases are read as files, so that a damaged one is described and not opened. Only the rows themselves are read
through the lake. It mends nothing but what no reader looks at: `remove_leftovers`.
"""

# pyright: reportMissingTypeStubs=false

import contextlib
import shutil
import socket
import sqlite3
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from pydantic import ValidationError

from cai_dagster.checkpoints import read_record
from cai_dagster.column_lineage import tables_with
from cai_dagster.errors import MendableError
from cai_dagster.findings import Finding, good, problem, warning
from cai_dagster.forgotten_prompts import forgotten_prompts
from cai_dagster.home import Home
from cai_dagster.ledger import SCHEMA_VERSION

ORPHAN_SECONDS = 3_600.0  # a file that came later may belong to a commit that is under way
_DAY_SECONDS = 86_400.0
NAMED = 3  # of many, so many are named
_MEND = "cai doctor --mend"
_RESTORE = (
    "put a copy back, or set CAI_HOME to a new folder, copy ledger.sqlite* there and materialize again: no completion "
    "that is in the ledger is paid for twice."
)


@dataclass(frozen=True)
class CatalogFile:
    """A Parquet file as the catalog names it; `current`: the latest snapshot reads it."""

    path: Path
    bytes: int
    current: bool


@dataclass(frozen=True)
class Leftovers:
    """What no reader looks at: files in no snapshot, and folders of processes that are dead."""

    orphans: tuple[Path, ...]
    scratch: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Together."""
        files = [*self.orphans, *(file for folder in self.scratch for file in folder.rglob("*"))]
        return sum(file.stat().st_size for file in files if file.is_file())


def examine_integrity(home: Home) -> list[Finding]:
    """Everything about the tables, the ledger and the checkpoints of a home."""
    catalog = _database("lake", home.catalog)
    ledger = _database("ledger", home.ledger)
    left = _leftovers(home)  # before the lake is opened, which sweeps what dead processes left
    findings = [*catalog, *ledger]
    ledger_is_sound = home.ledger.exists() and not ledger
    if home.catalog.exists() and not catalog:
        files = _files(home)
        findings += files
        if not any(finding.remedy == _RESTORE for finding in files):
            findings += _rows(home, ledger_is_sound)
    elif not home.catalog.exists():
        findings.append(_no_catalog(home))
    if ledger_is_sound:
        findings += _ledger(home)
    elif not home.ledger.exists():
        findings.append(good("ledger", "none yet: no model call was ever paid for"))
    return [*findings, *left, *_checkpoints(home)]


def leftovers(home: Home) -> Leftovers:
    """What `remove_leftovers` would remove now."""
    return Leftovers(tuple(_orphans(home)), tuple(_abandoned(home)))


def remove_leftovers(home: Home) -> Leftovers:
    """Remove files that no snapshot names, an hour after they came, and scratch folders of dead processes.

    The lake's lock is held meanwhile, so that no commit is between moving its files in and naming them.
    """
    if not home.root.exists():
        return Leftovers((), ())
    with FileLock(f"{home.catalog}.lock"):
        found = leftovers(home)
        for file in found.orphans:
            file.unlink(missing_ok=True)
        for folder in found.scratch:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def _database(topic: str, file: Path) -> list[Finding]:
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
    return [problem(topic, f"{file} is damaged: {'; '.join(said)}", _RESTORE)]


def _no_catalog(home: Home) -> Finding:
    if any(not file.name.startswith("ducklake-") for file in home.tables.rglob("*.parquet")):
        return problem("lake", f"the catalog {home.catalog} is gone, but the tables it described are not", _RESTORE)
    return good("lake", "empty: nothing has been materialized yet")


def _files(home: Home) -> list[Finding]:
    """The catalog against the files it names."""
    try:
        named = _catalog_files(home)
    except sqlite3.DatabaseError as error:
        return [problem("lake", f"{home.catalog} is no catalog that this program reads: {error}", _RESTORE)]
    lost = [file for file in named if not file.path.exists()]
    cut = [file for file in named if file.path.exists() and file.path.stat().st_size != file.bytes]
    findings: list[Finding] = []
    for files, what in ((lost, "gone"), (cut, "of another size than when they were written")):
        current = [file.path for file in files if file.current]
        old = [file.path for file in files if not file.current]
        if current:
            findings.append(problem("lake", f"files of tables {what}: {_some(current)} ({len(current):,})", _RESTORE))
        if old:
            text = f"files of earlier snapshots {what}: {_some(old)} ({len(old):,})"
            findings.append(
                warning("lake", text, "none is needed: the tables as they are now are whole, those snapshots are not")
            )
    if not findings:
        current = sum(file.current for file in named)
        findings.append(
            good("lake", f"{len(named):,} files, {current:,} of them in the current snapshot; none missing")
        )
    return findings


def _rows(home: Home, with_ledger: bool) -> list[Finding]:
    """The rows: whether the lake opens, their calls are in the ledger and their checkpoints are where they say."""
    from cai_dagster.lake import Lake

    try:
        lake = Lake(home)
        lake.select("SELECT count(*) FROM lake.materializations", {})
    except MendableError as error:
        return [problem("lake", str(error), _RESTORE)]
    findings = [*_lost_checkpoints(lake), *_remembered(lake, home)]
    if with_ledger:
        findings += _lost_calls(lake, home)
    return findings


def _lost_calls(lake: Any, home: Home) -> list[Finding]:
    import polars as pl

    from cai_dagster.tables import TABLES

    with reading(home.ledger) as connection:
        known = pl.Series("id", [row[0] for row in connection.execute("SELECT request_id FROM calls")], pl.String)
    findings: list[Finding] = []
    for table in TABLES.values():
        lists = [
            f'"{name}"' if isinstance(dtype, pl.List) else f'["{name}"]'
            for name, dtype in table.schema.items()
            if "request_id" in name
        ]
        if not lists:
            continue
        # Imported completions were made elsewhere, and no call was paid for.
        own = "WHERE source <> 'imported'" if table.name == "response_pairs" else ""
        each = " UNION ALL ".join(f"SELECT unnest({one}) AS id FROM lake.{table.name} {own}" for one in lists)
        ids = lake.select(f"SELECT DISTINCT id FROM ({each}) WHERE id IS NOT NULL", {})["id"]
        lost = ids.filter(~ids.is_in(known.implode()))
        if len(lost):
            text = f"{table.name}: the ledger does not have {len(lost):,} of the calls its rows were made of"
            remedy = (
                f"Put the ledger back that they were paid into ({home.ledger}); without it they are paid for again."
            )
            findings.append(problem("ledger", text, remedy))
    return findings or [good("ledger", "it has every call that a row of a table was made of")]


def _remembered(lake: Any, home: Home) -> list[Finding]:
    """Rows of prompts that were removed for good: a copy was put back, or another machine's run was under way."""
    forgotten = sorted(forgotten_prompts(home))
    ids = " UNION ".join(f"SELECT prompt_id FROM lake.{table}" for table in tables_with("prompt_id"))
    there = lake.select(f"SELECT prompt_id FROM ({ids}) WHERE list_contains($ids, prompt_id)", {"ids": forgotten})
    return [
        problem("lake", f"prompt {one} was removed for good, and is there again", f"cai forget {one}")
        for one in sorted(there["prompt_id"])
    ]


def _lost_checkpoints(lake: Any) -> list[Finding]:
    from cai_dagster.tables import TABLES

    findings: list[Finding] = []
    for table in TABLES.values():
        if "checkpoint_key" not in table.schema or "path" not in table.schema:
            continue
        for version, path in lake.select(f"SELECT constitution_version, path FROM lake.{table.name}", {}).iter_rows():
            if not (Path(path) / "record.json").exists():
                text = f"{table.name} of {version} names the checkpoint {path}, which is not there"
                findings.append(problem("checkpoints", text, _materialize(table.name, version)))
    return findings


def _materialize(table: str, version: str) -> str:
    return f"dagster asset materialize -m cai_dagster.definitions --select 'key:{table}' --partition {version}"


def _ledger(home: Home) -> list[Finding]:
    with reading(home.ledger) as connection:
        try:
            (version,) = connection.execute("SELECT max(version) FROM ledger_schema").fetchone()
            calls, size = connection.execute("SELECT count(*) FROM calls").fetchone()[0], home.ledger.stat().st_size
        except sqlite3.DatabaseError as error:
            return [problem("ledger", f"{home.ledger} is no ledger: {error}", _RESTORE)]
    if version is None or version > SCHEMA_VERSION:
        text = f"{home.ledger} has schema version {version}, this program writes {SCHEMA_VERSION}"
        return [
            problem("ledger", text, "Use the version of cai_dagster that wrote it, or set CAI_HOME to a new folder.")
        ]
    return [good("ledger", f"{calls:,} calls, schema version {version}, {size / 1e6:,.0f} MB")]


def _leftovers(home: Home) -> list[Finding]:
    found = leftovers(home)
    findings: list[Finding] = []
    if found.orphans:
        text = f"{len(found.orphans):,} files in tables/ that no snapshot names: {_some(found.orphans)}"
        findings.append(warning("lake", text, _MEND))
    if found.scratch:
        text = f"{len(found.scratch):,} scratch folders of processes that are dead: {_some(found.scratch)}"
        findings.append(warning("staging", text, f"{_MEND} (or any command that opens the lake)"))
    elsewhere = [folder for folder in home.staging.glob("*-*-*") if not _is_of_this_machine(folder) and _is_old(folder)]
    for folder in elsewhere:
        text = f"{folder} was begun more than a day ago on another machine"
        findings.append(warning("staging", text, f"rm -r '{folder}', unless a process there is still at it"))
    return findings or [good("staging", "nothing left over")]


def _orphans(home: Home) -> list[Path]:
    """Parquet files in the tables' folder that the catalog does not name, and that are no commit under way.

    Their age counts from when they were moved there: a row may have been staged hours before its commit.
    """
    if not home.catalog.exists():
        return []  # then nothing is named, and everything would be an orphan
    try:
        named = {file.path for file in _catalog_files(home)}
    except sqlite3.DatabaseError:
        return []
    oldest = time.time() - ORPHAN_SECONDS
    unnamed = (file for file in home.tables.rglob("*.parquet") if file not in named)
    return sorted(file for file in unnamed if file.stat().st_ctime < oldest)


def _abandoned(home: Home) -> list[Path]:
    """Scratch folders of processes of this machine that are dead."""
    here = (folder for folder in home.staging.glob("*-*-*") if _is_of_this_machine(folder))
    return sorted(folder for folder in here if not psutil.pid_exists(int(folder.name.rsplit("-", 2)[1])))


def _is_of_this_machine(scratch: Path) -> bool:
    host, process, _ = scratch.name.rsplit("-", 2)
    return host == socket.gethostname() and process.isdecimal()


def _is_old(folder: Path) -> bool:
    return folder.stat().st_mtime < time.time() - _DAY_SECONDS


def _catalog_files(home: Home) -> list[CatalogFile]:
    """Every file that any snapshot names; those that are scheduled for deletion too."""
    query = """
        SELECT f.path, f.path_is_relative, f.file_size_bytes, f.end_snapshot IS NULL AND t.end_snapshot IS NULL,
            s.path, s.path_is_relative, t.path, t.path_is_relative
        FROM {files} f JOIN ducklake_table t USING (table_id) JOIN ducklake_schema s USING (schema_id)
    """
    found: list[CatalogFile] = []
    with reading(home.catalog) as connection:
        for files in ("ducklake_data_file", "ducklake_delete_file"):
            for path, relative, size, current, *folders in connection.execute(query.format(files=files)):
                place = home.tables
                for folder, is_relative in (folders[:2], folders[2:], (path, relative)):
                    place = place / folder if is_relative else Path(folder)
                found.append(CatalogFile(place, size, bool(current)))
        scheduled = "SELECT path, path_is_relative FROM ducklake_files_scheduled_for_deletion"
        for path, relative in connection.execute(scheduled):
            file = home.tables / path if relative else Path(path)
            if file.exists():
                found.append(CatalogFile(file, file.stat().st_size, current=False))
    return found


def _snapshots(home: Home) -> set[int] | None:
    """The snapshots there are; None where nobody can tell."""
    try:
        with reading(home.catalog) as connection:
            return {row[0] for row in connection.execute("SELECT snapshot_id FROM ducklake_snapshot")}
    except sqlite3.DatabaseError:
        return None


def _checkpoints(home: Home) -> list[Finding]:
    snapshots = _snapshots(home) if home.catalog.exists() else None
    findings: list[Finding] = []
    complete = 0
    for folder in sorted(home.models.glob("*/*/")):
        if folder.parent.name == "offline":
            continue
        about = _checkpoint(folder, snapshots)
        complete += not about
        findings += about
    return findings or [good("checkpoints", f"{complete:,} complete")]


def _checkpoint(folder: Path, snapshots: set[int] | None) -> list[Finding]:
    asset, remove = folder.parent.name, f"rm -r '{folder}'"
    if not (folder / "record.json").exists():
        text = f"{folder} has no record.json: its training was never finished, or the file was removed"
        return [warning("checkpoints", text, f"{remove} (training {asset} again replaces it as well)")]
    try:
        record = read_record(folder)
    except (ValidationError, UnicodeDecodeError) as error:
        text = f"{folder}/record.json cannot be read: {str(error).splitlines()[0]}"
        return [problem("checkpoints", text, f"{remove} and materialize {asset} again")]
    if not any(folder.glob("*.safetensors")):
        return [problem("checkpoints", f"{folder} has no weights", f"{remove} and materialize {asset} again")]
    gone = (
        {}
        if snapshots is None
        else {table: snapshot for table, snapshot in record.lake_snapshots.items() if snapshot not in snapshots}
    )
    if gone:
        named = ", ".join(f"{table} at {snapshot}" for table, snapshot in sorted(gone.items()))
        text = f"{folder} was trained on snapshots that are no longer there: {named}"
        remedy = f"nothing brings them back; to train on the rows there are: {remove} and materialize {asset} again"
        return [warning("checkpoints", text, remedy)]
    return []


@contextlib.contextmanager
def reading(file: Path) -> Generator[sqlite3.Connection]:
    """A SQLite database, for reading only."""
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        yield connection


def _some(paths: Iterable[Path]) -> str:
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
