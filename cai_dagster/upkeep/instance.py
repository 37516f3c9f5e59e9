"""The Dagster instance of a home, looked at by `cai doctor`: its settings, and who may hold an accelerator."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, cast

import yaml

from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import reading
from cai_dagster.project import EXAMPLE_INSTANCE
from cai_dagster.upkeep.findings import Finding, good, problem, quoted, warning

POOL = "gpu"
ANSWER_SECONDS = 60  # of the storage of a shared instance
# Settings of dagster.yaml: the values that do, and what another one means.
_INSTANCE = (
    ("concurrency.pools.granularity", ("run",), problem, "two runs may hold the accelerator at once"),
    ("run_monitoring.enabled", (True,), problem, "a run whose process died stays started for ever"),
    (
        "run_monitoring.free_slots_after_run_end_seconds",
        range(1, 3_601),
        problem,
        "a dead run keeps its place in the pool",
    ),
    ("telemetry.enabled", (False,), warning, "Dagster sends usage statistics to its makers"),
)
_STORAGES = ("storage", "event_log_storage")
_POOL_LIMIT = """
    SELECT "limit" FROM concurrency_limits WHERE concurrency_key = ? AND NOT coalesce(using_default_limit, 0)
"""


def examine_instance(home: Home) -> list[Finding]:
    """What is wrong with its settings, or with the places of the pool of GPUs."""
    file = home.dagster / "dagster.yaml"
    if not file.exists():
        return [problem("instance", f"{home.dagster} is no Dagster instance yet", "cai setup")]
    copy = f"cp {quoted(EXAMPLE_INSTANCE)} {quoted(file)}"
    try:
        read: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        return [problem("instance", f"{file} is no YAML file: {error}", f"rm -r {quoted(file)} && {copy}")]
    findings = [
        level("instance", f"{file}: {name} is {_at(read, name)!r}: {meaning}", copy)
        for name, fitting, level, meaning in _INSTANCE
        if _at(read, name) not in fitting
    ]
    if any(_at(read, name) is not None for name in _STORAGES):
        places = _shared_places(home)
        if isinstance(places, str):
            mend = f"start the server, or correct `storage` in {quoted(file)}"
            return [*findings, problem("instance", f"the storage that {file} names does not answer: {places}", mend)]
        pool = f"the instance is shared, and pool {POOL} has {places} places"
    else:
        findings += _pool(home, read)
        pool = f"pool {POOL} has one place"
    return findings or [good("instance", f"{pool}, runs are monitored, telemetry is off")]


def _shared_places(home: Home) -> int | str:
    """How many runs at once an instance in a database lets hold an accelerator; or why it did not say."""
    command = [sys.executable, "-m", "resources.instance", "places"]
    environment = {**os.environ, "DAGSTER_HOME": str(home.dagster)}
    try:
        asked = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {ANSWER_SECONDS} s"
    if asked.returncode:
        lines = asked.stderr.strip().splitlines() or [f"{' '.join(command)} ended with {asked.returncode}"]
        # Dagster's own last words are that it has tried often; the first are the driver's.
        return next((line for line in lines if "OperationalError" in line), lines[-1])
    return int(asked.stdout)


def _pool(home: Home, instance: Any) -> list[Finding]:
    """The pool's limit, which is in the instance's event log and not in its file."""
    remedy = f"DAGSTER_HOME={quoted(home.dagster)} dagster instance concurrency set {POOL} 1"
    log = home.dagster / "history" / "runs" / "index.db"
    limit: Any = _at(instance, "concurrency.pools.default_limit")
    if log.exists():
        try:
            with reading(log) as connection:
                limit = next((row[0] for row in connection.execute(_POOL_LIMIT, [POOL])), limit)
        except sqlite3.DatabaseError as error:
            return [problem("instance", f"{log} cannot be read: {error}", f"rm -r {quoted(home.dagster)} && cai setup")]
    if limit == 1:
        return []
    return [
        problem(
            "instance", f"the pool {POOL} has {limit or 'no'} places: runs load their models beside each other", remedy
        )
    ]


def _at(value: Any, place: str) -> Any:
    """The value at `a.b.c`; None where there is none."""
    for name in place.split("."):
        value = cast("Mapping[str, Any]", value).get(name) if isinstance(value, dict) else None
    return value
