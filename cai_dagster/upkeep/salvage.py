"""A damaged ledger made anew: of what SQLite still reads of it, and of the texts that tables have.

A call whose checksum does not fit is left out, so that it alone is asked again. The damaged files are kept beside.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cai_dagster.calls.checksums import CHECKED, checksum
from cai_dagster.calls.claims import leases_beside
from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.ledger_schema import calls, retries
from cai_dagster.calls.requests import Answer, PaidCall, Slot
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import reading
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.leases import is_held
from cai_dagster.lake.scratch import scratch_folder
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.table import Table

MOST_UNREADABLE = 100_000  # row numbers in a row that cannot be read: behind them is nothing more
_HEADER_BYTES = 100
Stored = dict[str, Any]
"""A row as SQLite has it, texts as bytes."""
_UNKNOWN_MODEL = "unknown (salvaged from a table)"


class SalvageError(MendableError):
    """The ledger cannot be salvaged; the message says why."""


@dataclass(frozen=True)
class Salvaged:
    """Calls saved from the damaged ledger, left out because their checksum does not fit, and saved from tables."""

    read: int
    altered: int
    from_tables: int
    kept: Path

    def __str__(self) -> str:
        return (
            f"saved {self.read:,} calls of the ledger and {self.from_tables:,} texts of tables; {self.altered:,} calls "
            f"that were not as they were written are left out and will be made again; the damaged ledger is {self.kept}"
        )

    def to_json(self) -> dict[str, int | str]:
        """For scripts."""
        return {**asdict(self), "kept": str(self.kept)}


def altered_calls(ledger: Path) -> list[str]:
    """The calls whose checksum does not fit what the ledger has of them: a bit of it flipped."""
    with reading(ledger) as connection:
        return [row["request_id"].decode(errors="replace") for row in _rows(connection) if not _is_whole(row)]


def salvage_ledger(home: Home) -> Salvaged:
    """Put the ledger aside, and write a new one of the calls that can be read and of the texts in tables.

    Raises SalvageError where there is no ledger, or a run is using it.
    """
    if home.shared_ledger:
        raise SalvageError("CAI_LEDGER names a PostgreSQL database: put a backup of it back with pg_restore")
    if not home.ledger.is_file():
        raise SalvageError(f"{home.ledger} is not there: nothing can be read of it")
    if any(is_held(lease) for lease in leases_beside(home.ledger).glob("*")):
        raise SalvageError("a run is paying for calls now; salvage the ledger when it has ended")
    with scratch_folder(home.staging) as folder:
        damaged, mended = folder / home.ledger.name, folder / "mended.sqlite"
        for suffix in ("", "-wal"):
            part = Path(f"{home.ledger}{suffix}")
            if part.exists():
                shutil.copyfile(part, f"{damaged}{suffix}")
        _filled_up(damaged)
        Ledger(mended).close()
        read, altered = _copy(damaged, mended)
        with_tables = Ledger(mended)
        from_tables = _put_texts_of_tables(home, with_tables)
        with_tables.close()
        with contextlib.closing(sqlite3.connect(mended)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        kept = _aside(home.ledger)
        mended.rename(home.ledger)
    return Salvaged(read, altered, from_tables, kept)


def _filled_up(database: Path) -> None:
    """Give a file that was cut the length that it says it has: what is not there any more reads as empty pages."""
    with database.open("r+b") as file:
        header = file.read(_HEADER_BYTES)
        page = int.from_bytes(header[16:18], "big")
        bytes_said = (65_536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
        if bytes_said > database.stat().st_size:
            file.truncate(bytes_said)


def _copy(damaged: Path, mended: Path) -> tuple[int, int]:
    """Copy the calls that are whole, and the retries; how many calls, and how many were not whole."""
    read = altered = 0
    try:
        with (
            contextlib.closing(sqlite3.connect(damaged)) as source,
            contextlib.closing(sqlite3.connect(mended)) as into,
        ):
            for row in _rows(source):
                if not _is_whole(row):
                    altered += 1
                    continue
                _insert(into, calls.name, row)
                read += 1
            with contextlib.suppress(sqlite3.DatabaseError):
                for row in source.execute(f"SELECT * FROM {retries.name}").fetchall():
                    _insert(into, retries.name, dict(row))
            into.commit()
    except sqlite3.DatabaseError as error:
        raise SalvageError(f"nothing can be read of {damaged.name}: {error}") from error
    return read, altered


def _insert(connection: sqlite3.Connection, table: str, row: Stored) -> None:
    values: list[Any] = [value.decode() if isinstance(value, bytes) else value for value in row.values()]
    names, places = ", ".join(row), ", ".join("?" * len(values))
    connection.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({places})", values)


def _rows(connection: sqlite3.Connection) -> Iterator[Stored]:
    """The calls that can be read, in the order of their row numbers; texts as bytes."""
    connection.row_factory, connection.text_factory = sqlite3.Row, bytes
    number = unreadable = 0
    while unreadable < MOST_UNREADABLE:
        numbered = f"SELECT rowid AS number, * FROM {calls.name} NOT INDEXED WHERE rowid > ? ORDER BY rowid"
        try:
            for row in connection.execute(numbered, (number,)):
                number, unreadable = row["number"], 0
                yield {name: row[name] for name in row.keys() if name != "number"}  # noqa: SIM118  (a Row is no mapping)
        except sqlite3.DatabaseError:
            number += 1
            unreadable += 1
        else:
            return
    if not number - unreadable:
        raise sqlite3.DatabaseError("none of its pages has a call")


def _is_whole(row: Stored) -> bool:
    try:
        for value in row.values():
            if isinstance(value, bytes):
                value.decode()
    except UnicodeDecodeError:
        return False
    return row["checksum"] == checksum(tuple(row[name] for name in CHECKED))


def _put_texts_of_tables(home: Home, ledger: Ledger) -> int:
    """The completions that tables have and the ledger does not; their tokens and their model are not known any more."""
    lake = Lake(home)
    saved = 0
    for table in TABLES.values():
        if not table.has("prompt_id"):
            continue
        for call_column, text, finish_reason in _completions_of(table):
            found = lake.select(
                f"SELECT DISTINCT {call_column}, prompt_id, {text}, {finish_reason} FROM lake.{table.name} "
                f"WHERE {call_column} IS NOT NULL AND {text} IS NOT NULL AND {finish_reason} IS NOT NULL",
                {},
            ).rows()
            known = ledger.get([request_id for request_id, *_ in found])
            missing = [
                PaidCall(request_id, _UNKNOWN_MODEL, Slot(table.calls, prompt_id), Answer(completion, ended, 0, 0, 0.0))
                for request_id, prompt_id, completion, ended in found
                if request_id not in known
            ]
            ledger.put(missing)
            saved += len(missing)
    lake.close()
    return saved


def _completions_of(table: Table) -> list[tuple[str, str, str]]:
    """(request id, text, finish reason): the columns of each completion that a table has."""
    found: list[tuple[str, str, str]] = []
    for call in table.call_columns:
        ended = call.replace("request_id", "finish_reason")
        for text in (call.replace("request_id", "completion"), call.removesuffix("_request_id")):
            if table.has(text, ended):
                found.append((call, text, ended))
                break
    return found


def _aside(ledger: Path) -> Path:
    """Move a ledger's files to names that are free; the first of them."""
    number = 1
    while (kept := ledger.with_name(f"{ledger.stem}.damaged-{number}{ledger.suffix}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        part = Path(f"{ledger}{suffix}")
        if part.exists():
            part.rename(f"{kept}{suffix}")
    return kept
