"""Loading the code location: what every process that Dagster starts pays before it does anything."""

import resource
import statistics
import subprocess
import sys
from typing import Any

REPEATS = 5


def measure() -> dict[str, Any]:
    """Median seconds of CPU of a process that loads the definitions and ends; beside it, of Dagster alone."""
    ours = [_cpu("import cai_dagster.definitions") for _ in range(REPEATS)]
    dagster = [_cpu("import dagster") for _ in range(REPEATS)]
    return {
        "results": {"location_load_cpu_s": statistics.median(ours)},
        "details": {"cpu_s": ours, "dagster_alone_cpu_s": dagster},
    }


def _cpu(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
