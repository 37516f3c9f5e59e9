"""`python -m cai_dagster.training.worker FOLDER`: one of the processes of a training; `launch` starts them."""

import os
import signal
import sys
from pathlib import Path

import msgspec

from cai_dagster.processes import when_the_run_ends
from cai_dagster.training.launch import FAILED, OUTCOME, REPORTED, read_job


def main(job: Path) -> None:
    """Train; the first process reports and writes the outcome."""
    when_the_run_ends(lambda: os.killpg(0, signal.SIGKILL))  # all processes of this training
    first = os.environ.get("RANK", "0") == "0"

    def report(line: str) -> None:
        if first:
            _say(REPORTED, line)

    try:
        outcome = read_job(job).run(report)
    except Exception as error:
        _say(FAILED, " ".join(f"{type(error).__name__}: {error}".split()))
        raise
    if first:
        (job / OUTCOME).write_bytes(msgspec.json.encode(outcome))


def _say(kind: str, line: str) -> None:
    sys.stdout.write(f"{kind}{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
