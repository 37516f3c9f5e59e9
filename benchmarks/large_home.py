"""The commands that are looked at every day, on a home with 200 constitution versions and a million scripted rows."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.large_lake import VERSIONS, build, version_name
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.training.checkpoints import CheckpointRecord

REPEATS = 5


def measure() -> dict[str, Any]:
    """Build the home, then measure on it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        build(home)
        return measured(home)


def measured(home: Home) -> dict[str, Any]:
    """Seconds of each command from the start of its process to its end: the fastest of several runs.

    What else goes on on the machine only adds to them. The slowest kind of id stands for `cai trace`.
    """
    newest = version_name(VERSIONS)
    traces = {kind: seconds_of(home, "trace", one) for kind, one in ids_to_trace(home, newest).items()}
    status = seconds_of(home, "status")
    page = home.root / "report.html"
    report = seconds_of(home, "report", newest, "--output", str(page), repeats=1)
    return {
        "results": {
            "status_seconds": status,
            "trace_seconds": max(traces.values()),
            "report_seconds": report,
            "report_megabytes": page.stat().st_size / 1e6,
        },
        "details": {"trace_seconds": traces},
    }


def ids_to_trace(home: Home, version: str) -> dict[str, str]:
    """One id of each kind, of the newest version."""
    lake = Lake(home)
    pair = lake.snapshot("response_pairs", version).frame().row(0, named=True)
    records = (home.models / "reward_model").glob("*/record.json")
    checkpoints = (CheckpointRecord.model_validate(json.loads(record.read_text())) for record in records)
    return {
        "prompt": pair["prompt_id"],
        "pair": pair["pair_id"],
        "request": pair["request_id_1"],
        "principle": "principle-00",
        "checkpoint": next(one.checkpoint_key for one in checkpoints if one.constitution_version == version),
    }


def seconds_of(home: Home, *arguments: str, repeats: int = REPEATS) -> float:
    """Of a command, from the start of its process to its end: the fastest of several runs."""
    program = [sys.executable, "-c", "from cai_dagster.commands.cli import app; app()", *arguments]
    environment = {**os.environ, "CAI_HOME": str(home.root)}
    taken: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(program, check=True, stdout=subprocess.DEVNULL, env=environment)  # noqa: S603
        taken.append(time.perf_counter() - began)
    return min(taken)
