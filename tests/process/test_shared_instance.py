"""Two homes that share a Dagster instance in a real PostgreSQL server: its pool of GPUs, and its runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cai_dagster.home import Home
from cai_dagster.project import EXAMPLE_INSTANCE, PROJECT
from cai_dagster.upkeep.findings import Level
from cai_dagster.upkeep.instance import examine_instance
from tests.postgresql import PostgreSqlServer


@pytest.fixture
def homes(server: PostgreSqlServer, tmp_path: Path) -> list[Home]:
    url = server.new_database().replace("postgresql://", "postgresql+psycopg2://")
    made = [Home(tmp_path / name) for name in ("one", "other")]
    for home in made:
        home.dagster.mkdir(parents=True)
        storage = f"storage:\n  postgres:\n    postgres_url: {url}\n"
        (home.dagster / "dagster.yaml").write_text(EXAMPLE_INSTANCE.read_text() + storage)
    return made


def run(home: Home, *command: str) -> str:
    environment = {**os.environ, "CAI_HOME": str(home.root), "DAGSTER_HOME": str(home.dagster)}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_what_one_home_says_of_the_pool_and_runs_is_what_the_other_sees(homes: list[Home]) -> None:
    one, other = homes
    run(one, "resources.instance")
    assert run(other, "resources.instance", "places") == "1\n"
    run(one, "resources.instance", "places", "3")
    run(other, "resources.instance")  # preparing it again takes nothing back
    (finding,) = examine_instance(other)
    assert finding.level == Level.good
    assert "pool gpu has 3 places" in finding.text
    run(one, "dagster", "asset", "materialize", "-m", "tests.scripted_location", "--select", "constitution",
        "--partition", "v1")  # fmt: skip
    assert "Job: __ASSET_JOB" in run(other, "dagster", "run", "list")
