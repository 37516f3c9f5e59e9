"""Replicas on a real local Ray cluster: calls are spread, deaths cost nothing, and what is wrong is said once."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.requests import Answer, LanguageModel, Request, Slot
from cai_dagster.calls.row_stream import Row, run_rows
from cai_dagster.errors import RowError
from cai_dagster.home import Home
from cai_dagster.lake.staging import StagedRows
from cai_dagster.models.chat_format import ContextTooLongError
from cai_dagster.models.hardware import resolve_dtype
from cai_dagster.models.messages import Message
from cai_dagster.models.settings import EngineKind, LanguageModelSettings
from cai_dagster.models.weights import Weights, weights_of
from cai_dagster.settings import active_settings
from resources.engines.ray import engine as ray_engine
from resources.engines.ray.engine import RayEngine
from resources.engines.ray.replica import Replica, ReplicaError
from tests.scripted import ScriptedEngine
from tests.scripted_replicas import StartScripted, die_on_starting, refuse_to_start

STAGE = "initial_responses"
MODEL = "scripted@0123"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for the module; an engine uses the cluster its process is connected to."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Also the module's CAI_HOME."""
    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CAI_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def weights(folder: Path) -> Weights:
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(b"scripted")
    return weights_of("scripted", folder / "model", Home.from_environment())


@pytest.fixture(scope="module")
def scripted(folder: Path) -> StartScripted:
    (folder / "notes").mkdir()
    return StartScripted(folder / "notes", delay=0.2)


@pytest.fixture(scope="module")
def settings() -> LanguageModelSettings:
    return active_settings().policy.model_copy(update={"engine": EngineKind.ray, "replicas": 2})


@pytest.fixture(scope="module")
def log() -> list[str]:
    return []


@pytest.fixture(scope="module")
def shared(
    cluster: None, weights: Weights, settings: LanguageModelSettings, scripted: StartScripted, log: list[str]
) -> Iterator[RayEngine]:
    """Two replicas for most tests: they come back after each test that kills them."""
    engine = RayEngine(weights, settings, log.append, scripted)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared: RayEngine, log: list[str]) -> RayEngine:
    """The shared engine with both replicas alive."""
    while len(said(log, "serves on")) - len(said(log, "died")) < 2:
        asyncio.run(shared.complete(asked("waiting")))
    return shared


def said(log: list[str], words: str) -> list[str]:
    return [line for line in log if words in line]


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


def test_the_same_rows_get_the_answers_of_a_single_engine(engine: RayEngine, home: Home) -> None:
    replicated, ledger, _ = run_stage(home, engine, 40, "replicated")
    single, single_ledger, _ = run_stage(home, ScriptedEngine(), 40, "single")
    assert table(replicated).equals(table(single))
    assert ledger.totals() == single_ledger.totals() == {STAGE: 80}


def test_calls_are_spread_over_both_processes_and_those_of_a_prompt_stay_together(
    engine: RayEngine, scripted: StartScripted
) -> None:
    for turn in range(3):  # an event loop each, as stages have
        together(lambda turn=turn: [engine.complete(asked(f"spread{number}", turn=turn)) for number in range(20)])
    first, second = ({call.split()[0] for call in calls} for calls in scripted.calls("spread").values())
    assert os.getpid() not in scripted.calls("spread")
    assert min(len(first), len(second)) >= 4
    assert len(first & second) <= 4


def test_a_replica_that_is_killed_costs_no_row_and_no_call_is_counted_twice(
    engine: RayEngine, scripted: StartScripted, home: Home, log: list[str]
) -> None:
    deaths = len(said(log, "died"))
    victim = scripted.alive()[0]

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
    assert len(said(log, "died")) == deaths + 1, "nothing was in flight on the replica that was killed"


def test_new_processes_take_the_place_of_dead_ones(engine: RayEngine, scripted: StartScripted) -> None:
    killed = scripted.alive()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    answers = together(lambda: [engine.complete(asked(f"replaced{number}")) for number in range(20)])
    assert [answer.text for answer in answers] == [f"{STAGE} 0 of replaced{number}" for number in range(20)]
    assert len(killed) == 2
    assert scripted.alive()
    assert set(scripted.alive()).isdisjoint(killed)


def test_what_is_wrong_with_a_row_arrives_as_it_was_raised(engine: RayEngine) -> None:
    with pytest.raises(ContextTooLongError) as refused:
        asyncio.run(engine.complete(asked("row", "too long")))
    assert type(refused.value) is ContextTooLongError
    assert str(refused.value) == "context_too_long: 9 tokens do not fit 8"
    assert asyncio.run(engine.complete(asked("row"))).text


def test_what_is_wrong_with_an_engine_is_not_tried_again(engine: RayEngine, scripted: StartScripted) -> None:
    with pytest.raises(ValueError, match=r"^the engine is out of order$") as failed:
        asyncio.run(engine.complete(asked("engine", "out of order")))
    assert not isinstance(failed.value, RowError)
    assert sum(len(calls) for calls in scripted.calls("engine").values()) == 1


def test_a_call_that_kills_every_replica_is_given_up(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "SENDS", 2)
    monkeypatch.setattr(ray_engine, "DEATHS", 100)  # those of the tests before count too
    with pytest.raises(ReplicaError, match=r"2 replicas died while they had the same call .*prompt_id='poison'"):
        asyncio.run(engine.complete(asked("poison", "kill")))


def test_choices_are_asked_of_replicas_too(engine: RayEngine) -> None:
    assert asyncio.run(engine.choose(asked("p"), ("A", "B"))).logprobs == (-0.2, -1.8)


def test_a_model_that_cannot_be_loaded_says_why_and_where(
    cluster: None, weights: Weights, settings: LanguageModelSettings
) -> None:
    one = settings.model_copy(update={"replicas": 1})
    with pytest.raises(ReplicaError, match=r"cannot start on .*process \d+.*MemoryError: the model does not fit"):
        RayEngine(weights, one, print, refuse_to_start)


def test_a_replica_that_dies_again_and_again_on_starting_is_given_up(
    cluster: None, weights: Weights, settings: LanguageModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "DEATHS", 2)
    monkeypatch.setattr(ray_engine, "WAITING_SECONDS", 0.05)
    one = settings.model_copy(update={"replicas": 1})
    log: list[str] = []
    with pytest.raises(ReplicaError, match="died 2 times in a row and answered nothing"):
        RayEngine(weights, one, log.append, die_on_starting)
    assert said(log, "no replica has started yet; the cluster has 0 GPUs and 3 CPUs")


async def test_a_node_with_other_weights_is_refused(
    home: Home, weights: Weights, settings: LanguageModelSettings, scripted: StartScripted
) -> None:
    other = replace(weights, digest="0" * 64)
    with pytest.raises(ReplicaError, match="holds other files than on the machine that asks"):
        await Replica().start(scripted, other, settings, home)


async def test_a_node_without_the_weights_is_refused(
    home: Home, weights: Weights, settings: LanguageModelSettings, scripted: StartScripted
) -> None:
    missing = replace(weights, folder=weights.folder / "missing")
    with pytest.raises(ReplicaError, match="missing is not there; every node must have the model's folder"):
        await Replica().start(scripted, missing, settings, home)


def test_the_type_of_the_weights_is_decided_by_who_asks(shared: RayEngine, scripted: StartScripted) -> None:
    assert set(scripted.types()) == {resolve_dtype("auto")}


def test_a_machine_without_ray_is_told_what_to_install(
    weights: Weights, settings: LanguageModelSettings, scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ReplicaError, match="pip install"):
        RayEngine(weights, settings, print, scripted)


def test_a_cluster_that_does_not_answer_is_said_so(
    weights: Weights, settings: LanguageModelSettings, scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def refuse(address: str, **_: Any) -> None:
        raise ConnectionError(f"Failed to connect to Ray cluster at {address}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    elsewhere = settings.model_copy(update={"ray_address": "head:6379"})
    with pytest.raises(ReplicaError, match=r"no Ray cluster answers at ray_address 'head:6379'.*RAY_AUTH_MODE=token"):
        RayEngine(weights, elsewhere, print, scripted)


def test_closing_ends_the_replicas_and_the_cluster_it_started(
    weights: Weights, settings: LanguageModelSettings, scripted: StartScripted
) -> None:
    # Last in this file: the cluster that the other tests share must be gone.
    import ray

    ray.shutdown()
    handler = signal.getsignal(signal.SIGTERM)
    others = set(psutil.Process().children(recursive=True))
    engine = RayEngine(weights, settings.model_copy(update={"replicas": 1}), print, scripted)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert asyncio.run(engine.complete(asked("p"))).text
    children = set(psutil.Process().children(recursive=True)) - others
    assert any("raylet" in child.name() for child in children)
    engine.close()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert not ray.is_initialized()
    assert (scripted.notes / "closed").exists()
