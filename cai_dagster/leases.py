"""Leases: files that a living process holds locked.

The operating system drops the lock when the process ends, in whatever container or on whatever machine of a shared
file system it ran. No process id, no host name and no clock decides who is alive.
"""

import fcntl
import os
from pathlib import Path


def hold(lease: Path) -> int:
    """Make the file and lock it; the open file that holds the lock."""
    opened = os.open(lease, os.O_RDWR | os.O_CREAT)
    fcntl.flock(opened, fcntl.LOCK_EX)
    return opened


def is_held(lease: Path) -> bool:
    """Whether a living process holds it; one that may not be opened counts as held, one that is not there does not."""
    try:
        opened = os.open(lease, os.O_RDWR)
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
