"""A home that may only be read: what looks at it works, and what would change it says why it cannot."""

import contextlib
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai_dagster.calls.ledger import open_ledger
from cai_dagster.commands.cli import app
from cai_dagster.home import Home
from cai_dagster.plan.cost import plan
from cai_dagster.settings import active_settings
from resources.lake import open_lake
from tests.explained_home import copied
from tests.scripted_graph import scripted_models


@pytest.fixture(scope="module")
def mounted(explained: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = copied(explained, tmp_path_factory.mktemp("read_only") / "home")
    with contextlib.closing(sqlite3.connect(home.ledger)) as connection:  # as its last user leaves it
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    mounted = subprocess.run(["mount", "--bind", home.root, home.root], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode()}")
    subprocess.run(["mount", "-o", "remount,ro,bind", home.root], check=True)
    yield home
    subprocess.run(["umount", "--lazy", home.root], check=True)


@pytest.fixture(autouse=True)
def environment(mounted: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_HOME", str(mounted.root))


def test_a_plan_is_made_of_it(mounted: Home) -> None:
    policy, feedback_model = scripted_models()
    made = plan(mounted, active_settings(), policy, feedback_model, ["v1"], ["judgements"])
    (stage,) = made.stages
    assert stage.calls == stage.in_ledger + stage.new > 0
    assert stage.in_ledger > 0


def test_its_tables_are_read(mounted: Home) -> None:
    pairs = open_lake(mounted).snapshot("preference_pairs", "v1").frame()
    assert pairs.height


@pytest.mark.parametrize("command", ["status", "diff v1 v2", "trace {pair}", "report v1 --output {folder}/v1.html"])
def test_commands_that_look_work(mounted: Home, tmp_path: Path, command: str) -> None:
    pair = open_lake(mounted).snapshot("preference_pairs", "v1").frame()["pair_id"][0]
    result = CliRunner().invoke(app, command.format(pair=pair, folder=tmp_path).split())
    assert result.exit_code == 0, result.output


def test_the_doctor_names_the_cause_and_advises_no_deletion() -> None:
    output = " ".join(CliRunner().invoke(app, ["doctor"]).output.split())
    assert "cannot be written to (Read-only file system)" in output
    assert "mount it for writing" in output
    assert "rm -" not in output.split("cannot be written to")[1].split("problem")[0]


def test_a_database_that_nobody_has_open_is_read_where_nothing_may_be_written(mounted: Home) -> None:
    for beside in ("-wal", "-shm"):
        assert not mounted.ledger.with_name(f"{mounted.ledger.name}{beside}").exists()
    assert sum(open_ledger(mounted).totals().values()) > 0
