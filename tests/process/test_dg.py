"""The project is one that Dagster's `dg` knows: it lists the definitions and launches a run without more."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import dagster as dg

from cai_dagster.commands.init import init
from cai_dagster.home import Home
from cai_dagster.project import EXAMPLE_INSTANCE, PROJECT
from cai_dagster.tables.registry import graph, required_assets
from resources.lake import open_lake
from tests.misbehaving_server import free_port


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


def test_dg_dev_serves_the_graph_from_a_project_folder(home: Home, tmp_path: Path) -> None:
    init(tmp_path / "mine")
    port = free_port()
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("dg")), "dev", "--port", str(port)],
        cwd=tmp_path / "mine",
        env={**os.environ, "CAI_HOME": str(home.root), "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    query = json.dumps({"query": "{ assetNodes { assetKey { path } } }"}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", query, {"Content-Type": "application/json"})
    found: set[str] = set()
    end = time.monotonic() + 180
    while not found and time.monotonic() < end:
        assert server.poll() is None
        with suppress(OSError), urllib.request.urlopen(request, timeout=30) as answer:
            found = {node["assetKey"]["path"][0] for node in json.load(answer)["data"]["assetNodes"]}
        time.sleep(1)
    os.killpg(server.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        server.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    assert set(required_assets()) <= found
