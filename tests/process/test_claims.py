"""Runs that need the same calls at the same time pay for each once, also when they are killed or stopped.

Two processes run the same 120 prompts with one ledger, each through three calls: two that both need, one of its own for
every fourth prompt. The scripted engine takes 0.1 s a call and writes down each call when it begins.
"""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from cai_dagster.calls.ledger import Ledger
from cai_dagster.home import Home

PROMPTS, IN_FLIGHT, KILLS = 120, 8, 10

RUN = """
import asyncio, os, sys
from cai_dagster.calls import claims
from cai_dagster.calls.ledger import Ledger, open_ledger
from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.requests import Request, Sampling, Slot
from cai_dagster.calls.row_stream import run_rows
from cai_dagster.home import Home
from cai_dagster.lake.staging import StagedRows
from cai_dagster.lake.scratch import scratch_folder
from cai_dagster.models.messages import Message
from tests.scripted import ScriptedEngine

version, log, prompts, in_flight = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND), *map(int, sys.argv[3:])
home = Home.from_environment()
claims.BEAT_SECONDS, claims.LEASE_SECONDS = 0.5, 5.0

def begun(request):
    os.write(log, f"{request.completion_id('scripted')}\\n".encode())
    return 0.1

async def recipe(model, row):
    text = ""
    for turn in range(3):
        own = version if turn == 2 and row["number"] % 4 == 0 else ""
        slot = Slot("initial_responses", row["prompt_id"], turn)
        text = (await model.complete(Request((Message("user", f"{text} {own}".strip() or "Hello?"),), slot))).text
    return [{"prompt_id": row["prompt_id"], "sample": 0, "completion": text, "finish_reason": "stop",
             "request_id": "ff", "policy_model": "scripted"}]

model = LedgeredModel("scripted", lambda: ScriptedEngine(delay=begun), open_ledger(home))
with scratch_folder(home.staging) as folder:
    staged = StagedRows(folder, "initial_responses", None)
    rows = [{"prompt_id": f"{number:032x}", "number": number} for number in range(prompts)]
    run_rows(rows, len(rows), recipe, model, staged, lambda row: row["prompt_id"], in_flight, lambda progress: None)
print(model.usage.misses, staged.row_count)
"""


@pytest.fixture
def log(home: Home, tmp_path: Path) -> Path:
    Ledger(home.ledger).close()
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


def start(version: str, log: Path) -> "subprocess.Popen[str]":
    arguments = [version, str(log), str(PROMPTS), str(IN_FLIGHT)]
    return subprocess.Popen([sys.executable, "-c", RUN, *arguments], stdout=subprocess.PIPE, text=True)


def paid_twice(log: Path) -> int:
    counts = Counter(log.read_text().split())
    assert len(counts) == 3 * PROMPTS + PROMPTS // 4
    return counts.total() - len(counts)


def test_two_versions_started_together_pay_for_no_call_twice(log: Path) -> None:
    runs = [start(version, log) for version in ("v1", "v2")]
    results = [run.communicate(timeout=120)[0].split() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert paid_twice(log) == 0
    assert sum(int(misses) for misses, _ in results) == 3 * PROMPTS + PROMPTS // 4
    assert [int(rows) for _, rows in results] == [PROMPTS, PROMPTS]


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_cost_at_most_the_calls_in_flight(log: Path, seed: int) -> None:
    moments = random.Random(seed)
    runs = {version: start(version, log) for version in ("v1", "v2")}
    for _ in range(KILLS // 2):
        version = moments.choice(["v1", "v2"])
        begun = log.stat().st_size
        deadline = time.monotonic() + 60
        while log.stat().st_size == begun and any(run.poll() is None for run in runs.values()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.4))
        runs[version].kill()
        runs[version].communicate()
        runs[version] = start(version, log)
    for run in runs.values():
        run.communicate(timeout=120)
        assert run.returncode == 0
    assert paid_twice(log) <= KILLS // 2 * IN_FLIGHT


def test_a_stopped_run_keeps_no_other_from_its_calls(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = start("v1", log)
    while not log.stat().st_size:
        time.sleep(0.01)
    stopped.send_signal(signal.SIGSTOP)
    other = start("v2", log)
    assert other.wait(timeout=120) == 0
    stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(timeout=120) == 0
    assert paid_twice(log) <= IN_FLIGHT
