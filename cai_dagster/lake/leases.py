"""Leases: files that a living process holds locked.

The operating system drops the lock when the process ends, in whatever container or on whatever machine of a shared
file system it ran. No process id, no host name and no clock decides who is alive.
"""

import fcntl
import os
from pathlib import Path


def hold(lease: Path, wait: bool = True) -> int | None:
    """Lock the file, which is made where it is not there: the open file that holds the lock.

    None where another process holds it and we are not to wait. The file may belong to another user.
    """
    try:
        opened = os.open(lease, os.O_RDONLY)
    except FileNotFoundError:
        opened = os.open(lease, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        return None
    return opened


def is_held(lease: Path) -> bool:
    """Whether a living process holds it; one that may not be opened counts as held, one that is not there does not."""
    try:
        opened = os.open(lease, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(opened)
    return False


def let_go(opened: int | None) -> None:
    """Give up a lease that `hold` returned."""
    if opened is not None:
        os.close(opened)
