"""Where a process is: a line in CAI_HOME/marks.log whenever something begins, for whoever means to kill it there."""

import os
import time

from cai_dagster.home import Home

WORKING, DONE = "working", "done"


def mark(what: str) -> None:
    """Append `seconds what` (on the clock that all processes of a machine share) in one write."""
    append("marks.log", f"{time.monotonic():.6f} {what}")


def append(file: str, line: str) -> None:
    """Append a line to a file in CAI_HOME in one write, which a kill cannot cut in two."""
    root = Home.from_environment().root
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)
