"""Recognizes a full disk behind the errors of SQLite, DuckDB, Parquet and safetensors writers.

Some have no word at all (DuckLake reports a failed ROLLBACK), so where an error does not say what it is, the file
system is asked. It knows nothing of what is written.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from cai_dagster.errors import MendableError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("no space left on device", "disk is full", "disk quota exceeded")
_PROBE_BYTES = 2**18
_COPIED_BYTES = 8 * 2**20  # at a time


class DiskFullError(MendableError):
    """There is no room to write; the message says where, what is safe, and what to do."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"no space left on the file system of {folder} (or its quota is used up). Free some, and run the same "
            "command again. Nothing is damaged: every table and checkpoint is as it was last committed, and no "
            "completion that is in the ledger is paid for again."
        )


def moved(source: Path, destination: Path) -> Path:
    """Move a file or a folder; `destination` appears at once and complete, also on another file system."""
    try:
        return source.rename(destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    beside = destination.with_name(f".{destination.name}.moving")
    if source.is_dir():
        shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
        shutil.copytree(source, beside)
        beside.rename(destination)
        shutil.rmtree(source)
    else:
        shutil.copy2(source, beside)
        beside.replace(destination)
        source.unlink()
    return destination


def copy_file(source: Path, destination: Path) -> None:
    """Copy what a file holds; either may be on object storage, which shows a file when it is complete."""
    with source.open("rb") as read, destination.open("wb") as write:
        shutil.copyfileobj(read, write, _COPIED_BYTES)


@contextlib.contextmanager
def full_disk_named(*folders: Path) -> Generator[None]:
    """Raise DiskFullError in place of whatever is raised inside because the file system of a folder is full.

    It names the folder without room; the first, where all have some again.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        full = [folder for folder in folders if not _has_room(folder)]
        if full or _says_full(error):
            raise DiskFullError([*full, *folders][0]) from error
        raise


def _says_full(error: BaseException) -> bool:
    text = str(error).lower()
    return (isinstance(error, OSError) and error.errno in _FULL) or any(words in text for words in _WORDS)


def why_not_writable(folder: Path) -> OSError | None:
    """What the system says when a little is written there: free space as it counts may be beyond a quota."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
    except OSError as error:
        return error
    return None


def is_read_only(folder: Path) -> bool:
    """Whether nothing may be written there, or in what will hold it. A full disk is not read-only."""
    return not os.access(existing(folder), os.W_OK)


def read_only_uri(database: Path) -> str:
    """The URI by which a SQLite database is read.

    One in WAL mode has a file beside it while it is open, and SQLite would make that file to read it. Where nothing may
    be written and no such file is there, nobody has it open, and it is read as one that does not change.
    """
    at_rest = is_read_only(database.parent) and not database.with_name(f"{database.name}-shm").exists()
    return f"{database.absolute().as_uri()}?mode=ro{'&immutable=1' if at_rest else ''}"


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(one for one in (folder, *folder.parents) if one.exists())


def _has_room(folder: Path) -> bool:
    error = why_not_writable(folder)
    return error is None or error.errno not in _FULL
