"""Scratch folders: where files grow until they are complete, and are then moved to where readers look.

Each says in its name which process of which machine it belongs to, so that what a killed process left can be swept.
"""

import contextlib
import os
import shutil
import socket
import uuid
from collections.abc import Generator
from pathlib import Path

import psutil

_PROCESS_DIGITS = 9  # no system counts further


def new_scratch_folder(parent: Path) -> Path:
    """An empty folder of this process. What killed processes left beside it is swept first."""
    remove_abandoned(parent)
    folder = parent / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Generator[Path]:
    """An empty folder of this process, removed at the end with what is still in it."""
    folder = new_scratch_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def remove_abandoned(parent: Path) -> None:
    """Delete the folders of processes of this machine that no longer live."""
    for folder in abandoned(parent):
        shutil.rmtree(folder, ignore_errors=True)  # another process may be sweeping it too


def abandoned(parent: Path) -> list[Path]:
    """The folders of processes of this machine that no longer live."""
    here = (folder for folder in parent.glob("*-*-*") if folder.is_dir() and is_of_this_machine(folder))
    return sorted(folder for folder in here if not psutil.pid_exists(int(folder.name.rsplit("-", 2)[1])))


def is_of_this_machine(folder: Path) -> bool:
    """Whether a folder's name is one that a process of this machine gives."""
    host, process, _ = folder.name.rsplit("-", 2)
    return host == socket.gethostname() and process.isdecimal() and len(process) <= _PROCESS_DIGITS
