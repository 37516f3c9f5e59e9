"""Killed, interrupted, on a full disk, two at once: what is left is what an undisturbed run leaves.

All fifty kills: `make bench-faults`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cai_dagster.calls.ledger import Ledger
from cai_dagster.home import Home
from cai_dagster.models.weights import Weights
from cai_dagster.project import EXAMPLE_INSTANCE, PROJECT
from resources.lake import open_lake
from tests.faults import (
    PATIENCE_SECONDS,
    Moment,
    Undisturbed,
    Workload,
    abandoned,
    checkpoints_left,
    kill,
    kill_and_go_on,
    ledger_ids,
    model_left,
    random_moment,
    read_calls,
    tables_left,
    undisturbed,
    wait_for_mark,
    workloads,
    write_questions,
    wrong_calls,
    wrong_ledger,
)
from tests.small_disk import graph_on_a_small_disk

ANSWER_SECONDS = 0.05
QUESTIONS = 60


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", QUESTIONS)


@pytest.fixture(scope="module")
def graph(prompts: Path) -> Workload:
    return Workload("graph", [str(prompts), "v1", str(ANSWER_SECONDS)], tables_left)


@pytest.fixture(scope="module")
def reference(graph: Workload, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(graph, Home(tmp_path_factory.mktemp("undisturbed") / "home"))


@pytest.mark.parametrize(
    ("seed", "aim"), [(1, "committing"), (2, "in the transaction"), (3, "streaming"), (4, "training")]
)
def test_a_killed_graph_goes_on_to_the_same_tables(
    home: Home, graph: Workload, reference: Undisturbed, seed: int, aim: str
) -> None:
    verdict = kill_and_go_on(graph, home, reference, seed, random_moment(reference, seed, aim))
    assert not verdict.wrong
    assert verdict.landed != "done"


def test_a_killed_training_goes_on_to_the_same_weights(home: Home, tmp_path: Path) -> None:
    workload = workloads(tmp_path, ["training"])["training"]
    reference = undisturbed(workload, Home(tmp_path / "undisturbed"))
    verdict = kill_and_go_on(workload, home, reference, 1, random_moment(reference, 1, "training"))
    assert not verdict.wrong
    assert list(checkpoints_left(home)) == list(reference.left)


def test_a_killed_conversion_goes_on_to_the_same_model(home: Home, offline_weights: Weights) -> None:
    reference = Undisturbed({offline_weights.name: offline_weights.digest}, [])
    verdict = kill_and_go_on(Workload("conversion", [], model_left), home, reference, 1, Moment(0.5, "writing"))
    assert not verdict.wrong


DEMO = """
import signal
from cai_dagster.commands import cli, dagster_process, demo
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests in the background ignores it
dagster_process.GRAPH, demo.setup = "tests.scripted_location", lambda: None
cli.app(["demo"])
"""


def start_demo(home: Home, delay: float, log: Path) -> "subprocess.Popen[bytes]":
    """`cai demo` on the scripted model, in a process group of its own, as a terminal would start it."""
    environment = {**os.environ, "CAI_HOME": str(home.root), "PYTHONPATH": str(PROJECT), "SCRIPTED_DELAY": str(delay)}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", DEMO],
            cwd=PROJECT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def test_ctrl_c_keeps_every_completion_and_says_how_to_go_on(home: Home, tmp_path: Path) -> None:
    home.dagster.mkdir(parents=True)
    shutil.copy(EXAMPLE_INSTANCE, home.dagster)
    process = start_demo(home, 0.4, tmp_path / "first.log")
    try:
        wait_for_mark(process, home, Moment(0, "streaming revision_rounds"))
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        kill(process)
    *_, last = (tmp_path / "first.log").read_text().splitlines()
    assert last.startswith("Interrupted. Every completion received so far is in the ledger; run the same command again")
    calls, committed = read_calls(home), ledger_ids(home)
    assert {call for what, call in calls if what == "answered"} == committed
    assert not open_lake(home).materialized("revision_rounds", "v1")
    process = start_demo(home, 0, tmp_path / "second.log")
    try:
        assert process.wait(PATIENCE_SECONDS) == 0, (tmp_path / "second.log").read_text()[-3000:]
    finally:
        kill(process)
    assert not wrong_calls(read_calls(home), len(calls), committed)
    assert not wrong_ledger(home)


@pytest.mark.parametrize("small", [100, 900])
def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_when_there_is_room(
    reference: Undisturbed, prompts: Path, tmp_path: Path, small: int
) -> None:
    home, first = graph_on_a_small_disk(tmp_path, small, prompts)
    assert "run the same command again" in first
    assert "in use by another process" not in first
    left = json.loads(json.dumps(tables_left(home)).replace(f"{tmp_path}/disk/home", "HOME"))
    assert left == json.loads(json.dumps(reference.left))
    assert not wrong_ledger(home)
    assert not abandoned(home)


def both_at_once(home: Home, workloads: list[Workload]) -> None:
    """Start all in one home, and wait for them."""
    processes = [workload.start(home) for workload in workloads]
    try:
        codes = [process.wait(PATIENCE_SECONDS) for process in processes]
    finally:
        for process in processes:
            kill(process)
    assert codes == [0] * len(workloads), home.root.with_suffix(".log").read_text(errors="replace")[-3000:]


def one_version(prompts: Path, version: str, voice: str) -> Workload:
    return Workload("graph", [str(prompts), version, str(ANSWER_SECONDS), voice], tables_left)


def test_two_versions_at_once_are_as_one_after_the_other(home: Home, prompts: Path, tmp_path: Path) -> None:
    versions = [one_version(prompts, version, "steady") for version in ("v1", "v2")]
    in_turn = Home(tmp_path / "in_turn")
    for version in versions:
        version.finish(in_turn)
    both_at_once(home, versions)
    expected = tables_left(in_turn)
    assert tables_left(home) == expected
    assert len(expected["prompts"]) == QUESTIONS + 2
    assert not wrong_ledger(home)


def test_two_runs_that_get_different_answers_agree_on_those_in_the_ledger(home: Home, prompts: Path) -> None:
    both_at_once(home, [one_version(prompts, "v1", "one"), one_version(prompts, "v2", "two")])
    assert not wrong_ledger(home)
    left, paid = tables_left(home), sum(Ledger(home.ledger).totals().values())
    one_version(prompts, "v1", "three").finish(home)
    assert sum(Ledger(home.ledger).totals().values()) == paid
    again: dict[str, Any] = tables_left(home)
    assert again == left
