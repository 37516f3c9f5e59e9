"""The project is one that Dagster's `dg` knows: it lists the definitions and launches a run without more."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg

from cai_dagster.home import Home
from cai_dagster.project import EXAMPLE_INSTANCE, PROJECT
from cai_dagster.tables.registry import graph
from resources.lake import open_lake


def dg_command(home: Home, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("dg")), *arguments]
    environment = {**os.environ, "CAI_HOME": str(home.root), "DAGSTER_HOME": str(home.root / "dagster")}
    run = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_dg_lists_an_asset_for_every_table_of_the_graph(home: Home) -> None:
    definitions = json.loads(dg_command(home, "list", "defs", "--json"))
    assert {table.name for table in graph()} <= {asset["asset_key"] for asset in definitions["assets"]}
    assert {"constitutional_ai"} <= {job["name"] for job in definitions["jobs"]}


def test_dg_launches_a_run_of_a_version(home: Home) -> None:
    instance = home.root / "dagster"
    instance.mkdir(parents=True)
    shutil.copy(EXAMPLE_INSTANCE, instance)
    dg_command(home, "launch", "--assets", "constitution", "--partition", "v1")
    assert open_lake(home).snapshot("constitution", "v1").frame().height > 0
    with dg.DagsterInstance.from_config(str(instance)) as recorded:
        (run,) = recorded.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS
