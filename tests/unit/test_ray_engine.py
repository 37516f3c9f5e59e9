"""Replicas on a real local Ray cluster: calls are spread, deaths cost nothing, and what is wrong is said once."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from cai_dagster.home import Home
from cai_dagster.ledger import Ledger
from cai_dagster.model_calls import LedgeredModel
from cai_dagster.requests import Answer, ContextTooLongError, LanguageModel, Message, Request, RowError, Slot
from cai_dagster.row_stream import Row, run_rows
from cai_dagster.settings import EngineKind, LanguageModelSettings, active_settings
from cai_dagster.staging import StagedRows
from cai_dagster.weights import Weights, weights_of
from resources import ray_engine
from resources.ray_engine import RayEngine
from resources.ray_replica import ReplicaError, StartEngine
from tests.scripted import ScriptedEngine
from tests.scripted_replicas import StartScripted, die_on_starting, refuse_to_start

STAGE = "initial_responses"
MODEL = "scripted@0123"
Start = Callable[..., RayEngine]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for the module; an engine uses the cluster its process is connected to."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture
def settings() -> LanguageModelSettings:
    return active_settings().policy.model_copy(update={"engine": EngineKind.ray, "replicas": 2})


@pytest.fixture
def weights(home: Home, tmp_path: Path) -> Weights:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"scripted")
    return weights_of("scripted", tmp_path / "model", home)


@pytest.fixture
def scripted(tmp_path: Path) -> StartScripted:
    (tmp_path / "notes").mkdir()
    return StartScripted(tmp_path / "notes")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def start(cluster: None, weights: Weights, settings: LanguageModelSettings, log: list[str]) -> Iterator[Start]:
    """Starts engines and closes them at the end."""
    engines: list[RayEngine] = []

    def start_replicas(start_engine: StartEngine, served: Weights = weights, both: bool = True) -> RayEngine:
        engine = RayEngine(served, settings, log.append, start_engine)
        engines.append(engine)
        while both and len([line for line in log if "serves on" in line]) < settings.replicas:
            asyncio.run(engine.complete(asked("wait")))
            time.sleep(0.05)
        return engine

    yield start_replicas
    for engine in engines:
        engine.close()


def asked(prompt_id: str, content: str = "Hello?", turn: int = 0) -> Request:
    return Request((Message("user", content),), Slot(STAGE, prompt_id, turn))


def together(calls: Callable[[], Sequence[Coroutine[Any, Any, Answer]]]) -> list[Answer]:
    async def run() -> list[Answer]:
        return await asyncio.gather(*calls())

    return asyncio.run(run())


def rows(count: int) -> list[Row]:
    return [{"prompt_id": f"{number:032x}"} for number in range(count)]


async def answer_in_two_turns(model: LanguageModel, row: Row) -> Sequence[Row]:
    first = await model.complete(asked(row["prompt_id"]))
    second = await model.complete(asked(row["prompt_id"], first.text, turn=1))
    return [
        {
            "prompt_id": row["prompt_id"],
            "sample": 0,
            "completion": second.text,
            "finish_reason": second.finish_reason,
            "request_id": second.request_id,
            "policy_model": MODEL,
        }
    ]


def run_stage(home: Home, engine: Any, count: int, name: str) -> tuple[StagedRows, Ledger, LedgeredModel]:
    """Two calls for each row, all rows at once, with a ledger of their own."""
    (home.staging / name).mkdir(parents=True)
    staged = StagedRows(home.staging / name, STAGE, None)
    ledger = Ledger(home.root / f"{name}.sqlite")
    model = LedgeredModel(MODEL, lambda: engine, ledger)
    run_rows(rows(count), count, answer_in_two_turns, model, staged, lambda row: row["prompt_id"], count, print)
    return staged, ledger, model


def table(staged: StagedRows) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(part) for part in staged.parts]).sort("prompt_id")


def test_the_same_rows_get_the_answers_of_a_single_engine(start: Start, scripted: StartScripted, home: Home) -> None:
    replicated, ledger, _ = run_stage(home, start(scripted), 40, "replicated")
    single, single_ledger, _ = run_stage(home, ScriptedEngine(), 40, "single")
    assert table(replicated).equals(table(single))
    assert ledger.totals() == single_ledger.totals() == {STAGE: 80}


def test_calls_are_spread_over_both_processes_and_those_of_a_prompt_stay_together(
    start: Start, scripted: StartScripted
) -> None:
    engine = start(scripted)
    for turn in range(3):
        together(lambda turn=turn: [engine.complete(asked(f"p{number}", turn=turn)) for number in range(20)])
    calls = {pid: [call.split()[0] for call in calls if call[0] == "p"] for pid, calls in scripted.calls().items()}
    first, second = (set(calls) for calls in calls.values())
    assert len(calls) == 2
    assert os.getpid() not in calls
    assert min(len(first), len(second)) >= 4
    assert len(first & second) <= 4


def test_a_replica_that_is_killed_costs_no_row_and_no_call_is_counted_twice(
    start: Start, scripted: StartScripted, home: Home, log: list[str]
) -> None:
    slow = StartScripted(scripted.notes, delay=0.3)
    engine = start(slow)
    victim, _ = slow.calls()

    class KillsOneOnTheWay:
        sent = 0

        async def complete(self, request: Request) -> Answer:
            self.sent += 1
            if self.sent == 30:
                asyncio.get_running_loop().call_later(0.1, os.kill, victim, signal.SIGKILL)
            return await engine.complete(request)

    staged, ledger, model = run_stage(home, KillsOneOnTheWay(), 30, "killed")
    assert staged.row_count == 30
    assert staged.rejected_count == 0
    assert ledger.totals() == {STAGE: 60}
    assert model.usage.misses == 60
    assert slow.repeated(), "nothing was in flight on the replica that was killed"
    assert len([line for line in log if "died" in line]) == 1


def test_a_new_process_takes_the_place_of_a_dead_one(start: Start, scripted: StartScripted, log: list[str]) -> None:
    engine = start(scripted)
    killed = list(scripted.calls())
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    answers = together(lambda: [engine.complete(asked(f"p{number}")) for number in range(20)])
    assert [answer.text for answer in answers] == [f"{STAGE} 0 of p{number}" for number in range(20)]
    survivors = set(scripted.calls()) - set(killed)
    assert survivors
    assert len([line for line in log if "serves on" in line]) > 2


def test_what_is_wrong_with_a_row_arrives_as_it_was_raised(start: Start, scripted: StartScripted) -> None:
    engine = start(scripted, both=False)
    with pytest.raises(ContextTooLongError) as refused:
        asyncio.run(engine.complete(asked("p", "too long")))
    assert type(refused.value) is ContextTooLongError
    assert str(refused.value) == "context_too_long: 9 tokens do not fit 8"
    assert asyncio.run(engine.complete(asked("p"))).text


def test_what_is_wrong_with_an_engine_is_not_tried_again(start: Start, scripted: StartScripted) -> None:
    engine = start(scripted, both=False)
    with pytest.raises(ValueError, match=r"^the engine is out of order$") as failed:
        asyncio.run(engine.complete(asked("p", "out of order")))
    assert not isinstance(failed.value, RowError)
    assert not scripted.repeated()


def test_a_call_that_kills_every_replica_is_given_up(
    start: Start, scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "SENDS", 2)
    engine = start(scripted, both=False)
    with pytest.raises(ReplicaError, match=r"2 replicas died while they had the same call .*prompt_id='p'"):
        asyncio.run(engine.complete(asked("p", "kill")))


def test_choices_are_asked_of_replicas_too(start: Start, scripted: StartScripted) -> None:
    engine = start(scripted, both=False)
    assert asyncio.run(engine.choose(asked("p"), ("A", "B"))).logprobs == (-0.2, -1.8)


def test_a_model_that_cannot_be_loaded_says_why_and_where(start: Start) -> None:
    with pytest.raises(ReplicaError, match=r"cannot start on .*process \d+.*MemoryError: the model does not fit"):
        start(refuse_to_start)


def test_a_replica_that_dies_again_and_again_on_starting_is_given_up(start: Start) -> None:
    with pytest.raises(ReplicaError, match="died 3 times in a row and answered nothing"):
        start(die_on_starting)


def test_a_node_with_other_weights_is_refused(start: Start, scripted: StartScripted, weights: Weights) -> None:
    (weights.folder / "model.safetensors").write_bytes(b"changed meanwhile")
    with pytest.raises(ReplicaError, match="holds other files than on the machine that asks"):
        start(scripted, weights)


def test_a_node_without_the_weights_is_refused(start: Start, scripted: StartScripted, weights: Weights) -> None:
    missing = Weights("scripted", weights.folder / "missing", weights.digest)
    with pytest.raises(ReplicaError, match="missing is not there; every node must have the model's folder"):
        start(scripted, missing)


def test_closing_ends_the_replicas_and_the_cluster_it_started(
    weights: Weights, settings: LanguageModelSettings, scripted: StartScripted
) -> None:
    # Last in this file: the cluster that the other tests share must be gone.
    import ray

    ray.shutdown()
    handler = signal.getsignal(signal.SIGTERM)
    engine = RayEngine(weights, settings, print, scripted)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert asyncio.run(engine.complete(asked("p"))).text
    children = psutil.Process().children(recursive=True)
    assert any("raylet" in child.name() for child in children)
    engine.close()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert not ray.is_initialized()
    assert (scripted.notes / "closed").exists()
