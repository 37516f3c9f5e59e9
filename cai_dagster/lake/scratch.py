"""Scratch folders: where files grow until they are complete, and are then moved to where readers look.

The process that works in one holds the lease `.lease` in it: a folder whose lease nobody holds is abandoned and can be
swept.
"""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Generator
from pathlib import Path

from cai_dagster.disk import is_read_only
from cai_dagster.home import Home
from cai_dagster.lake.leases import hold, is_held

LEASE = ".lease"
_held: dict[Path, int] = {}


def scratch_of(home: Home) -> Path:
    """Where the scratch folders of a home are: in the home, or, where it may only be read, with the system's own."""
    return temporary_scratch() if is_read_only(home.root) else home.staging


def temporary_scratch() -> Path:
    """Where scratch folders are that belong to no home: with the temporary files of the system."""
    return Path(tempfile.gettempdir()) / f"cai_dagster-{os.getuid()}"


def new_scratch_folder(parent: Path) -> Path:
    """An empty folder of this process, but for its lease. What ended processes left beside it is swept first."""
    remove_abandoned(parent)
    name = uuid.uuid4().hex
    begun = parent / f".{name}"  # hidden until the lease is held
    begun.mkdir(parents=True)
    lease = hold(begun / LEASE)
    folder = begun.rename(parent / name)
    _held[folder] = lease
    return folder


def remove_scratch_folder(folder: Path) -> None:
    """Delete a folder of this process, with what is still in it, and give up its lease."""
    shutil.rmtree(folder, ignore_errors=True)  # what stays is swept: nobody holds its lease any more
    os.close(_held.pop(folder))


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Generator[Path]:
    """An empty folder of this process, removed at the end with what is still in it."""
    folder = new_scratch_folder(parent)
    try:
        yield folder
    finally:
        remove_scratch_folder(folder)


def remove_abandoned(parent: Path) -> None:
    """Delete the folders whose process has ended."""
    for folder in abandoned(parent):
        shutil.rmtree(folder, ignore_errors=True)  # another process may be sweeping it too


def abandoned(parent: Path) -> list[Path]:
    """The folders whose process has ended. What has no lease was not made here, and is left alone."""
    return sorted(lease.parent for lease in parent.glob(f"[!.]*/{LEASE}") if not is_held(lease))
