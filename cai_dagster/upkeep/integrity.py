"""Whether what lies in a home fits together: the lake's catalog and its files, the ledger, the checkpoints.

The databases are read as files, so that a damaged one is described and not opened. Only the rows themselves are read
through the lake. It mends nothing but what no reader looks at: `remove_leftovers`.
"""

# pyright: reportMissingTypeStubs=false

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from cai_dagster.calls.ledger import SCHEMA_VERSION
from cai_dagster.errors import MendableError
from cai_dagster.home import PROJECT, Home
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.lake.reader import has_committed_files
from cai_dagster.lake.scratch import abandoned, is_of_this_machine
from cai_dagster.models.weights import WeightsError, fresh_digest, is_whole, known_digest, lacking
from cai_dagster.settings import DEFAULT_PROFILE
from cai_dagster.tables.registry import tables_with
from cai_dagster.tables.table import Maker
from cai_dagster.training.checkpoints import checkpoint_folder, folder_of_row, read_record
from cai_dagster.upkeep.findings import Finding, Level, good, problem, quoted, warning

ORPHAN_SECONDS = 3_600.0  # a file that came later may belong to a commit that is under way
_DAY_SECONDS = 86_400.0
NAMED = 3  # of many, so many are named
_MEND = "cai doctor --mend"
_NO_LEDGER = (
    "put a copy of it back, if there is one; otherwise move it away: every call that is made from then on is paid for"
)
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


def examine_integrity(home: Home, full: bool = False) -> list[Finding]:
    """Everything about the tables, the ledger and the checkpoints of a home; `full` reads every row of every table."""
    catalog = _database("lake", home.catalog, _RESTORE)
    ledger = _database("ledger", home.ledger, _NO_LEDGER) or _ledger(home)
    left = _leftovers(home)  # before the lake is opened, which sweeps what dead processes left
    findings = [*catalog, *ledger]
    if not _is_begun(home.catalog):
        findings.append(_no_catalog(home))
    elif not catalog:
        files = _files(home)
        findings += files
        if not any(finding.remedy == _RESTORE for finding in files):
            findings += _rows(home, all(finding.level == Level.good for finding in ledger), full)
    if not any(finding.topic == "ledger" for finding in findings):
        findings.append(good("ledger", "none yet: no model call was ever paid for"))
    return [*findings, *left, *_checkpoints(home, full)]


def _is_begun(database: Path) -> bool:
    """Whether there is a database: SQLite makes an empty file of one that was opened and never written."""
    return database.exists() and database.stat().st_size > 0


def leftovers(home: Home) -> Leftovers:
    """What `remove_leftovers` would remove now."""
    return Leftovers(tuple(_orphans(home)), tuple(abandoned(home.staging)))


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


def mend_filters(home: Home) -> list[str]:
    """Make filters find every row of the tables whose rows they miss; the names of these tables."""
    from cai_dagster.lake.lake import Lake
    from cai_dagster.tables.registry import TABLES

    if not _is_begun(home.catalog) or _database("lake", home.catalog, _RESTORE):
        return []
    lake = Lake(home)
    hidden = [table.name for table in TABLES.values() if lake.hidden_from_filters(table)]
    if hidden:
        lake.widen_text_bounds()
    lake.close()
    return hidden


def _database(topic: str, file: Path, remedy: str) -> list[Finding]:
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


def _no_catalog(home: Home) -> Finding:
    if has_committed_files(home):
        text = f"the catalog {home.catalog} is gone or empty, but the tables it described are not"
        return problem("lake", text, _RESTORE)
    return good("lake", "empty: nothing has been materialized yet")


def _files(home: Home) -> list[Finding]:
    """The catalog against the files it names."""
    try:
        named = _catalog_files(home)
    except sqlite3.DatabaseError as error:
        return [problem("lake", f"{home.catalog} is no catalog that this program reads: {error}", _RESTORE)]
    if not named and has_committed_files(home):
        text = f"the catalog {home.catalog} names none of the files in {home.tables}: it is not theirs"
        return [problem("lake", text, _RESTORE)]
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


def _rows(home: Home, with_ledger: bool, full: bool) -> list[Finding]:
    """The rows: whether the lake opens, their calls are in the ledger and their checkpoints are where they say."""
    import duckdb

    from cai_dagster.lake.lake import Lake

    try:
        lake = Lake(home)
        lake.select("SELECT count(*) FROM lake.materializations", {})
        if hidden := _hidden_rows(lake):
            return hidden  # the looks below filter
        damaged = (_doubled_rows(lake, home) or _damaged_rows(lake)) if full else []
        calls = _lost_calls(lake, home) if with_ledger else []
        return [*damaged, *_lost_checkpoints(lake, home), *_remembered(lake, home), *calls]
    except MendableError as error:
        return [problem("lake", str(error), "as it says there")]
    except duckdb.Error as error:
        return [problem("lake", f"a table cannot be read: {error}", _RESTORE)]


def _hidden_rows(lake: Any) -> list[Finding]:
    """Tables of which a filter finds fewer rows than there are: the catalog's bounds of a column are too narrow."""
    from cai_dagster.tables.registry import TABLES

    hidden = {table.name: columns for table in TABLES.values() if (columns := lake.hidden_from_filters(table))}
    return [
        problem("lake", f"{table}: filters on {', '.join(columns)} miss rows that the table has", _MEND)
        for table, columns in hidden.items()
    ]


def _doubled_rows(lake: Any, home: Home) -> list[Finding]:
    """Versions that were materialized again while filters missed their rows: they have the old rows and the new."""
    from cai_dagster.tables.registry import TABLES

    return [
        problem(
            "lake", f"{table.name} of {version}: several rows have one key", _materialize(home, table.name, version)
        )
        for table in TABLES.values()
        if table.versioned
        for version in lake.doubled_keys(table)
    ]


def _damaged_rows(lake: Any) -> list[Finding]:
    """Every row is read, and the rows of a table have to be those that their account tells of."""
    from cai_dagster.lake.snapshots import TableSnapshot
    from cai_dagster.tables.registry import TABLES

    now = lake.select("SELECT id FROM ducklake_current_snapshot('lake')", {}).item()  # of a commit all or nothing
    last = "SELECT table_name, constitution_version, arg_max(data_version, materialized_at) FROM accounts GROUP BY ALL"
    accounts = lake.query(f"{last} ORDER BY ALL", accounts=TableSnapshot(lake, "materializations", None, now))
    findings: list[Finding] = []
    for table in TABLES.values():
        told = {version: data_version for name, version, data_version in accounts.iter_rows() if name == table.name}
        found = lake.data_versions(TableSnapshot(lake, table.name, None, now))
        for version in (one for one in told if found.get(one, "empty") != told[one]):
            of_version = f" of {version}" if version else ""
            text = f"the rows of {table.name}{of_version} are not those that were committed: a file is damaged"
            findings.append(problem("lake", text, _RESTORE))
    return findings


def _lost_calls(lake: Any, home: Home) -> list[Finding]:
    """Of a home without a ledger they are all lost, if rows name any."""
    import polars as pl

    from cai_dagster.tables.registry import TABLES

    known = pl.Series("id", _calls_in(home.ledger), pl.String)
    any_named = False
    findings: list[Finding] = []
    for table in TABLES.values():
        lists = [
            f'"{name}"' if isinstance(table.schema[name], pl.List) else f'["{name}"]' for name in table.call_columns
        ]
        if not lists:
            continue
        # Imported completions were made elsewhere, and no call was paid for.
        own = "WHERE source <> 'imported'" if table.name == "response_pairs" else ""
        each = " UNION ALL ".join(f"SELECT unnest({one}) AS id FROM lake.{table.name} {own}" for one in lists)
        ids = lake.select(f"SELECT DISTINCT id FROM ({each}) WHERE id IS NOT NULL", {})["id"]
        any_named = any_named or len(ids) > 0
        lost = ids.filter(~ids.is_in(known.implode()))
        if len(lost):
            text = f"{table.name}: the ledger does not have {len(lost):,} of the calls its rows were made of"
            text += " (or the table is damaged: cai doctor --full tells)"
            remedy = (
                f"Put the ledger back that they were paid into ({home.ledger}); without it they are paid for again."
            )
            findings.append(problem("ledger", text, remedy))
    if any_named and not findings:
        return [good("ledger", "it has every call that a row of a table was made of")]
    return findings


def _calls_in(ledger: Path) -> list[str]:
    if not ledger.exists():
        return []
    with reading(ledger) as connection:
        return [row[0] for row in connection.execute("SELECT request_id FROM calls")]


def _remembered(lake: Any, home: Home) -> list[Finding]:
    """Rows of prompts that were removed for good: a copy was put back, or another machine's run was under way."""
    forgotten = sorted(forgotten_prompts(home))
    ids = " UNION ".join(f"SELECT prompt_id FROM lake.{table}" for table in tables_with("prompt_id"))
    there = lake.select(f"SELECT prompt_id FROM ({ids}) WHERE list_contains($ids, prompt_id)", {"ids": forgotten})
    return [
        problem("lake", f"prompt {one} was removed for good, and is there again", f"cai forget {one}")
        for one in sorted(there["prompt_id"])
    ]


def _lost_checkpoints(lake: Any, home: Home) -> list[Finding]:
    from cai_dagster.tables.registry import TABLES

    findings: list[Finding] = []
    for table in TABLES.values():
        if table.maker != Maker.training:
            continue
        named = f"SELECT constitution_version, checkpoint_key, path FROM lake.{table.name}"
        for row in lake.select(named, {}).iter_rows(named=True):
            version, folder = row["constitution_version"], folder_of_row(home, table.name, row)
            if not (folder / "record.json").exists():
                text = f"{table.name} of {version} names the checkpoint {folder}, which is not there"
                findings.append(problem("checkpoints", text, _materialize(home, table.name, version)))
            elif not folder.is_relative_to(home.models):
                text = f"{table.name} of {version} uses a checkpoint outside this home: {folder}"
                place = checkpoint_folder(home, table.name, row["checkpoint_key"])
                room = f"rm -rf {quoted(place)} && mkdir -p {quoted(place.parent)}"
                copy = f"cp -r {quoted(folder)} {quoted(place)}"
                findings.append(warning("checkpoints", text, f"{room} && {copy}"))
    return findings


def _materialize(home: Home, table: str, version: str) -> str:
    profile = os.environ.get("CAI_PROFILE", DEFAULT_PROFILE)  # the one it was made with is known to who made it
    command = f"dagster asset materialize -m cai_dagster.definitions --select 'key:{table}' --partition {version}"
    return f"cd {quoted(PROJECT)} && CAI_PROFILE={quoted(profile)} DAGSTER_HOME={quoted(home.dagster)} {command}"


def _ledger(home: Home) -> list[Finding]:
    if not home.ledger.exists():
        return []
    with reading(home.ledger) as connection:
        try:
            (version,) = connection.execute("SELECT max(version) FROM ledger_schema").fetchone()
            calls, size = connection.execute("SELECT count(*) FROM calls").fetchone()[0], home.ledger.stat().st_size
        except sqlite3.DatabaseError as error:
            return [problem("ledger", f"{home.ledger} is no ledger: {error}", _NO_LEDGER)]
    if version is not None and not 1 <= version <= SCHEMA_VERSION:
        text = f"{home.ledger} has schema version {version}, this program writes {SCHEMA_VERSION}"
        return [
            problem("ledger", text, "Use the version of cai_dagster that wrote it, or set CAI_HOME to a new folder.")
        ]
    return [good("ledger", f"{calls:,} calls, {size / 1e6:,.0f} MB")]


def _leftovers(home: Home) -> list[Finding]:
    found = leftovers(home)
    findings: list[Finding] = []
    if found.orphans:
        text = f"{len(found.orphans):,} files in tables/ that no snapshot names: {_some(found.orphans)}"
        findings.append(warning("lake", text, _MEND))
    if found.scratch:
        text = f"{len(found.scratch):,} scratch folders of processes that are dead: {_some(found.scratch)}"
        findings.append(warning("staging", text, f"{_MEND} (or any command that opens the lake)"))
    elsewhere = [folder for folder in home.staging.glob("*-*-*") if not is_of_this_machine(folder) and _is_old(folder)]
    for folder in elsewhere:
        text = f"{folder} was begun more than a day ago on another machine"
        findings.append(warning("staging", text, f"rm -r {quoted(folder)}, unless a process there is still at it"))
    return findings or [good("staging", "nothing left over")]


def _orphans(home: Home) -> list[Path]:
    """Parquet files in the tables' folder that the catalog does not name, and that are no commit under way.

    Their age counts from when they were moved there: a row may have been staged hours before its commit.
    """
    if not _is_begun(home.catalog) or _database("lake", home.catalog, _RESTORE):
        return []  # then nobody knows what is named, and everything would be an orphan
    try:
        named = {file.path for file in _catalog_files(home)}
    except sqlite3.DatabaseError:
        return []
    if not named:
        return []  # another catalog than theirs: a copy of the right one may be put back
    oldest = time.time() - ORPHAN_SECONDS
    unnamed = (file for file in home.tables.rglob("*.parquet") if file not in named)
    return sorted(file for file in unnamed if file.stat().st_ctime < oldest)


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


def _checkpoints(home: Home, full: bool) -> list[Finding]:
    snapshots = _snapshots(home) if _is_begun(home.catalog) else None
    findings: list[Finding] = []
    complete = 0
    for folder in _checkpoint_folders(home):
        about = _checkpoint(home, folder, snapshots, full)
        complete += not about
        findings += about
    return findings or [good("checkpoints", f"{complete:,} complete{_compared(home, full)}")]


def _compared(home: Home, full: bool) -> str:
    """How many have no hash to be compared with: they came from another home, or from an earlier program."""
    if not full:
        return ""
    try:
        unknown = [folder for folder in _checkpoint_folders(home) if known_digest(folder, home) is None]
    except WeightsError:
        return ""
    return f"; no hash was ever taken of {len(unknown):,} of them, and they were not compared" if unknown else ""


def _checkpoint_folders(home: Home) -> list[Path]:
    return sorted(folder for folder in home.models.glob("*/*/") if folder.parent.name != "offline")


def _checkpoint(home: Home, folder: Path, snapshots: set[int] | None, full: bool) -> list[Finding]:
    asset, remove = folder.parent.name, f"rm -r {quoted(folder)}"
    if not (folder / "record.json").exists():
        text = f"{folder} has no record.json: its training was never finished, or the file was removed"
        return [warning("checkpoints", text, f"{remove} (training {asset} again replaces it as well)")]
    try:
        record = read_record(folder)
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        text = f"{folder}/record.json cannot be read: {str(error).splitlines()[0]}"
        return [problem("checkpoints", text, f"{remove}; then materialize {asset} of its version again")]
    again = f"{remove} && {_materialize(home, asset, record.constitution_version)}"
    if damage := _damage(home, folder, full):
        return [problem("checkpoints", f"{folder} {damage}", again)]
    gone = (
        {}
        if snapshots is None
        else {table: snapshot for table, snapshot in record.lake_snapshots.items() if snapshot not in snapshots}
    )
    if gone:
        named = ", ".join(f"{table} at {snapshot}" for table, snapshot in sorted(gone.items()))
        text = f"{folder} was trained on snapshots that are no longer there: {named}"
        return [warning("checkpoints", text, f"nothing brings them back; to train on the rows there are: {again}")]
    return []


def _damage(home: Home, folder: Path, full: bool) -> str | None:
    """What is wrong with the weights of a checkpoint; their hash is compared where it was ever taken, and `full`."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        return "has no weights"
    if missing := lacking(folder):
        return f"has no {', no '.join(missing)}"
    if cut := [file.name for file in weights if not is_whole(file)]:
        return f"has weights that are not as long as their headers say: {', '.join(cut)}"
    try:
        known = known_digest(folder, home) if full else None
    except WeightsError:
        return None  # about all models, and said there
    if known is not None and known != fresh_digest(folder):
        return "has other files than those whose hash was taken, yet their times say so: they are damaged"
    return None


@contextlib.contextmanager
def reading(file: Path) -> Generator[sqlite3.Connection]:
    """A SQLite database, for reading only."""
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        yield connection


def _some(paths: Iterable[Path]) -> str:
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
