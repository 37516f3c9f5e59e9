"""Leases: files that a living process holds locked.

The operating system drops the lock when the process ends, in whatever container or on whatever machine of a shared
file system it ran. No process id, no host name and no clock decides who is alive.
"""

import fcntl
import os
from pathlib import Path


def hold(lease: Path) -> int:
    """Wait for the lock on a file, which is made where it is not there; the open file that holds the lock."""
    opened = _opened(lease)
    fcntl.flock(opened, fcntl.LOCK_EX)
    return opened


def hold_if_free(lease: Path) -> int | None:
    """As `hold`; None where another process holds it."""
    opened = _opened(lease)
    if _locks(opened):
        return opened
    os.close(opened)
    return None


def is_held(lease: Path) -> bool:
    """Whether a living process holds it; one that may not be opened counts as held, one that is not there does not."""
    try:
        opened = os.open(lease, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not _locks(opened)
    finally:
        os.close(opened)


def _opened(lease: Path) -> int:
    try:
        return os.open(lease, os.O_RDONLY)  # it may be another user's
    except FileNotFoundError:
        return os.open(lease, os.O_RDONLY | os.O_CREAT, 0o644)


def _locks(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
