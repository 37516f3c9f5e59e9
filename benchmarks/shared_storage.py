"""Labels and checks of a million judgements where hosts share the store, against the same in one home's files.

Catalog and ledger are in a real PostgreSQL server (Debian's package `postgresql`), data on a real S3 server (moto, in
this process). No model is asked: the judgements are scripted.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.large_home import seconds_of
from benchmarks.large_lake import commit_judged_pairs
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from tests.object_storage import ObjectStorage, share
from tests.postgresql import PostgreSqlServer

PAIRS = int(os.environ.get("CAI_BENCHMARK_PAIRS", "500000"))
VERSION = "v1"
LABEL = f"""from cai_dagster.commands.dagster_process import materialize
materialize('key:"preference_pairs"', {VERSION!r})"""
TRAINING_ROWS = f"""from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.plan.trainings import labelled_training_pairs
from cai_dagster.plan.work import Work
from cai_dagster.settings import active_settings
home = Home.from_environment()
lake = Lake(home)
tables = {{"preference_pairs": lake.snapshot("preference_pairs", {VERSION!r})}}
work = Work(home, lake, {VERSION!r}, tables, lake.stage("reward_model", {VERSION!r}))
with labelled_training_pairs(work, active_settings().reward_model) as pairs:
    pairs.hash()
    for _ in pairs.rows():
        pass"""
# Of its own child: a process that this one starts counts the memory of this one as its own.
MEASURED = """import resource, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


def measure() -> dict[str, Any]:
    """Labels and checks on the shared store against the local one, their peak memory, and `cai status`."""
    with tempfile.TemporaryDirectory() as folder:
        local = _labelled(Home(Path(folder) / "local"))
        server, storage = PostgreSqlServer(), ObjectStorage()
        try:
            with pytest.MonkeyPatch.context() as patch:
                share(patch, server.new_database(), storage.new_bucket(), storage)
                home = Home(Path(folder) / "host")
                shared = _labelled(home)
                rows = _peak_memory(home, TRAINING_ROWS)
                status = seconds_of(home, "status")
        finally:
            storage.pause()
            server.remove()
    return {
        "results": {
            "shared_labels_ratio": shared[0] / local[0],
            "shared_status_seconds": status,
            "labels_peak_memory_gb": max(shared[1], local[1]),
            "training_rows_peak_memory_gb": rows,
        },
        "details": {"local_seconds": local[0], "shared_seconds": shared[0]},
    }


def _labelled(home: Home) -> tuple[float, float]:
    """Seconds of a run that makes preference_pairs and runs its checks, and its peak memory in GB."""
    commit_judged_pairs(Lake(home), VERSION, PAIRS)
    began = time.perf_counter()
    peak = _peak_memory(home, LABEL)
    return time.perf_counter() - began, peak


def _peak_memory(home: Home, program: str) -> float:
    """The peak memory in GB of a process that runs a program on a home, and of those that it starts."""
    command = [sys.executable, "-c", MEASURED, program]
    environment = {**os.environ, "CAI_HOME": str(home.root)}
    ended = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603
    return int(ended.stdout.split()[-1]) * 1024 / 1e9
