"""A stage whose rows are split between driver processes, against one: the same rows, calls paid once, nobody left."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psutil
import pytest
from starlette.requests import Request
from starlette.responses import Response

from cai_dagster.calls.ledger import open_ledger
from cai_dagster.definitions import build_definitions
from cai_dagster.home import Home
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.settings import active_settings
from resources.lake import open_lake
from resources.language_models import LanguageModelResource, LedgerResource
from tests.misbehaving_server import Body, MisbehavingServer, behave, refusal
from tests.tiny_models import write_tiny_model

PROMPTS = 60
FIRST_RESPONSES = ("constitution", "prompts", "initial_responses")
ALONE = """
import sys
from pathlib import Path
from tests.process.test_drivers import materialize
materialize(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def server(folder: Path) -> Iterator[MisbehavingServer]:
    tokenizer: Any = ChatFormat(folder).tokenizer
    a, b = tokenizer.convert_tokens_to_ids(["A", "B"])
    started = MisbehavingServer("tiny", {a: -0.2, b: -1.9}, len(tokenizer), lambda token: tokenizer.decode([token]))
    started.cards[0]["max_model_len"] = 100_000
    yield started.start()
    started.die()


def materialize(folder: Path, url: str, drivers: int, *more: str) -> dg.ExecuteInProcessResult:
    """First responses to PROMPTS prompts, and more assets, in the home that the environment names."""
    prompts = Home.from_environment().root.parent / "prompts.jsonl"
    prompts.parent.mkdir(exist_ok=True)
    prompts.write_text("".join(json.dumps({"prompt": f"Say {number}."}) + "\n" for number in range(PROMPTS)))
    served = {"model": str(folder), "engine": "http", "base_urls": [url], "drivers": drivers, "max_model_len": 100_000}
    ledger, settings = LedgerResource(), active_settings()
    fields = {**settings.policy.model_dump(), **served, "patience_seconds": 1.0, "calls_in_flight": 8}
    model = LanguageModelResource(ledger=ledger, **fields)
    graph = build_definitions({"ledger": ledger, "policy": model, "feedback_model": model})
    keys = [dg.AssetKey(asset) for asset in (*FIRST_RESPONSES, *more)]
    job = graph.resolve_implicit_job_def_def_for_assets(keys)
    assert job is not None
    run_config = {"ops": {"prompts": {"config": {"sources": [str(prompts)]}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(run_config, instance, "v1", asset_selection=keys, raise_on_error=False)


def table(name: str) -> pl.DataFrame:
    lake = open_lake(Home.from_environment())
    return lake.snapshot(name, "v1" if name == "revision_rounds" else None).frame()


def drivers_alive() -> list[psutil.Process]:
    ours = psutil.Process().children(recursive=True)
    return [one for one in ours if one.status() != psutil.STATUS_ZOMBIE and "assets.common.driver" in one.cmdline()]


def test_three_drivers_make_the_rows_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, server: MisbehavingServer
) -> None:
    made: list[tuple[pl.DataFrame, ...]] = []
    asked: list[int] = []
    for drivers in (1, 3):
        monkeypatch.setenv("CAI_HOME", str(tmp_path / f"{drivers}" / "home"))
        result = materialize(folder, server.url, drivers, "revision_rounds")
        assert result.success
        made.append((table("initial_responses"), table("revision_rounds")))
        asked.append(len(server.generations))
        metadata = result.asset_materializations_for_node("revision_rounds")[0].metadata
        assert metadata["ledger_misses"].value == 2 * made[-1][1].height
        server.bodies.clear()
        assert not list(Home.from_environment().staging.glob("*"))
    assert made[0][0].equals(made[1][0])
    assert made[0][1].equals(made[1][1])
    assert made[0][0].height == PROMPTS
    assert asked[0] == asked[1]
    assert server.most_in_flight <= 8


def test_what_a_driver_rejects_is_rejected(home: Home, folder: Path, server: MisbehavingServer) -> None:
    tokenizer: Any = ChatFormat(folder).tokenizer
    refused = tokenizer.encode("Say 7.", add_special_tokens=False)

    async def refuse(body: Body, request: Request) -> Response | None:
        ids = body.get("prompt", [])
        found = any(ids[place : place + len(refused)] == refused for place in range(len(ids)))
        return refusal(400, "not this one") if found else None

    server.misbehave = refuse
    materialize(folder, server.url, 3)
    assert open_lake(home).snapshot("initial_responses", None).frame().height == PROMPTS - 1
    rejected = open_lake(home).query("SELECT reason FROM lake.rejected_rows")
    assert ["not this one" in reason for reason in rejected["reason"]] == [True]


def test_a_driver_that_fails_ends_the_others_and_what_was_paid_for_is_kept(
    home: Home, folder: Path, server: MisbehavingServer
) -> None:

    async def die_after(body: Body, request: Request) -> Response | None:
        return refusal(503, "no more") if len(server.generations) > 40 else None

    server.misbehave = die_after
    result = materialize(folder, server.url, 3)
    assert not result.success
    errors = [str(event.event_specific_data) for event in result.all_events if event.is_step_failure]
    assert any("no server has answered" in error or "no call was answered" in error for error in errors)
    assert not drivers_alive()
    assert sum(open_ledger(home).totals().values()) == 40


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_drivers_end_with_the_run(home: Home, folder: Path, server: MisbehavingServer, end: signal.Signals) -> None:

    async def slowly(body: Body, request: Request) -> Response | None:
        await asyncio.sleep(0.3 if body else 0)
        return None

    server.misbehave = slowly
    run = subprocess.Popen([sys.executable, "-c", ALONE, str(folder), server.url, "3"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(server.generations) < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    parts = psutil.Process(run.pid).children(recursive=True)
    assert len([part for part in parts if "assets.common.driver" in part.cmdline()]) == 3
    os.kill(run.pid, end)
    run.wait(30)
    while time.monotonic() < deadline and any(part.is_running() for part in parts):
        time.sleep(0.05)
    assert not any(part.is_running() and part.status() != psutil.STATUS_ZOMBIE for part in parts)
    answered = len(server.generations)
    server.bodies.clear()
    server.misbehave = behave
    assert materialize(folder, server.url, 3).success
    assert table("initial_responses").height == PROMPTS
    assert len(server.generations) <= PROMPTS - answered + 16  # what was under way is asked again
