"""The ledger in front of an engine: each call is paid for once, and kept whatever becomes of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cai_dagster.calls import ledgered_model as model_calls
from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.ledgered_model import LedgeredModel, Usage
from cai_dagster.calls.requests import (
    Answer,
    Completion,
    EmptyCompletionError,
    Engine,
    MissingLabelError,
    Request,
    Sampling,
    Slot,
)
from cai_dagster.home import Home
from cai_dagster.models.messages import Message
from cai_dagster.models.reasoning import ReasoningMarks
from tests.scripted import ScriptedEngine

MODEL = "scripted@0123"


def request(text: str = "Hello?", number: int = 0) -> Request:
    return Request((Message("user", text),), Slot("initial_responses", f"p{number}"))


def unstarted() -> Engine:
    raise AssertionError("the engine was started for a call that is in the ledger")


async def retried_until_kept(ledger: Ledger, request_id: str) -> None:
    while not ledger.get([request_id]):
        await asyncio.sleep(0.005)


@pytest.fixture
def ledger(home: Home) -> Ledger:
    return Ledger(home.ledger)


async def test_a_call_paid_for_once_is_a_hit_for_the_next_model_and_starts_no_engine(ledger: Ledger) -> None:
    engine = ScriptedEngine(lambda request: "Hi there.")
    first = LedgeredModel(MODEL, lambda: engine, ledger)
    completion = await first.complete(request())
    judged = await first.choose(request(), ("A", "B"))
    first.commit()
    second = LedgeredModel(MODEL, unstarted, ledger)
    assert await second.complete(request()) == completion
    assert await second.choose(request(), ("A", "B")) == judged
    assert (completion.text, completion.request_id) == ("Hi there.", request().completion_id(MODEL))
    assert (judged.logprobs, judged.request_id) == ((-0.2, -1.8), request().choice_id(MODEL, ("A", "B")))
    assert (first.usage.hits, first.usage.misses) == (0, 2)
    assert (second.usage.hits, second.usage.misses) == (2, 0)


async def test_a_model_asks_the_engine_once_also_before_it_commits(ledger: Ledger) -> None:
    engine = ScriptedEngine()
    model = LedgeredModel(MODEL, lambda: engine, ledger)
    assert await model.complete(request()) == await model.complete(request())
    assert (len(engine.requests), model.usage.hits, model.usage.misses) == (1, 1, 1)


async def test_the_engine_is_started_once_and_not_before_the_first_call_that_must_be_paid_for(ledger: Ledger) -> None:
    started: list[ScriptedEngine] = []

    def start() -> Engine:
        started.append(ScriptedEngine())
        return started[-1]

    model = LedgeredModel(MODEL, start, ledger)
    assert started == []
    await asyncio.gather(*(model.complete(request(number=number)) for number in range(5)))
    await model.complete(request(number=5))
    assert [len(engine.requests) for engine in started] == [6]


@pytest.mark.parametrize("delay", [0.0, 0.02])
async def test_two_equal_requests_at_the_same_time_pay_once(ledger: Ledger, delay: float) -> None:
    engine = ScriptedEngine(delay=lambda request: delay)
    model = LedgeredModel(MODEL, lambda: engine, ledger)
    one, other = await asyncio.gather(model.complete(request()), model.complete(request()))
    assert one == other
    assert (len(engine.requests), model.usage.hits, model.usage.misses) == (1, 1, 1)


@pytest.mark.parametrize("turns", range(8))
async def test_a_request_that_comes_at_any_moment_of_an_equal_one_pays_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    engine = ScriptedEngine()

    async def at_once(request: Request) -> Answer:
        engine.requests.append(request)
        return Answer("Hi.", "stop", 10, 1, 0.0)

    monkeypatch.setattr(engine, "complete", at_once)
    model = LedgeredModel(MODEL, lambda: engine, ledger)

    async def later() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await model.complete(request())

    await asyncio.gather(model.complete(request()), later())
    assert len(engine.requests) == 1


async def test_requests_that_differ_are_all_paid_for(ledger: Ledger) -> None:
    engine = ScriptedEngine()
    model = LedgeredModel(MODEL, lambda: engine, ledger)
    base = request()
    different = [
        base,
        replace(base, messages=(Message("system", "Be kind."), *base.messages)),
        replace(base, messages=(Message("system", "Be brief."), *base.messages)),
        replace(base, prefill="I"),
        replace(base, sampling=Sampling(seed=1)),
        replace(base, slot=replace(base.slot, round=1)),
    ]
    completions = await asyncio.gather(*(model.complete(each) for each in different))
    assert len({completion.request_id for completion in completions}) == len(different)
    assert engine.requests == different


async def test_another_model_pays_for_itself(ledger: Ledger) -> None:
    engine = ScriptedEngine()
    for name in ("one@0123", "other@4567"):
        model = LedgeredModel(name, lambda: engine, ledger)
        await model.complete(request())
        model.commit()
    assert len(engine.requests) == 2


@pytest.mark.parametrize("text", ["", "  \n\t", "\u2003"])
async def test_an_empty_completion_fails_its_row_and_is_not_paid_for_again(ledger: Ledger, text: str) -> None:
    engine = ScriptedEngine(lambda request: text)
    model = LedgeredModel(MODEL, lambda: engine, ledger)
    for _ in range(2):
        with pytest.raises(EmptyCompletionError, match=r"^empty_completion: .*finish_reason stop"):
            await model.complete(request())
    model.commit()
    request_id = request().completion_id(MODEL)
    assert ledger.get([request_id])[request_id].text == text
    with pytest.raises(EmptyCompletionError):
        await LedgeredModel(MODEL, unstarted, ledger).complete(request())
    assert len(engine.requests) == 1


async def test_what_a_model_thought_is_kept_apart_and_the_ledger_keeps_both(ledger: Ledger) -> None:
    engine = ScriptedEngine(lambda request: "<think>\nOdd.\n</think>\n\nNo.")
    model = LedgeredModel(MODEL, lambda: engine, ledger)
    for _ in range(2):
        said = await model.complete(request())
        assert (said.text, said.reasoning) == ("No.", "Odd.")
    model.commit()
    assert ledger.get([said.request_id])[said.request_id].text == "<think>\nOdd.\n</think>\n\nNo."
    own = LedgeredModel(
        "own", lambda: ScriptedEngine(lambda request: "<a>x</a>y"), ledger, None, ReasoningMarks("<a>", "</a>")
    )
    assert (await own.complete(request())).text == "y"


@pytest.mark.parametrize("text", ["<think>Let me try 2, 3, 5", "<think>\n\n</think>\n\n"])
async def test_a_thought_without_an_answer_fails_its_row(ledger: Ledger, text: str) -> None:
    model = LedgeredModel(MODEL, lambda: ScriptedEngine(lambda request: text), ledger)
    with pytest.raises(EmptyCompletionError, match=r"^empty_completion: "):
        await model.complete(request())


@pytest.mark.parametrize("logprobs", [(None, -0.1), (-0.1, None), (None, None), (), (-0.1,)])
async def test_a_missing_label_fails_its_row_and_is_not_paid_for_again(
    ledger: Ledger, logprobs: tuple[float | None, ...]
) -> None:
    engine = ScriptedEngine(logprobs=lambda request: logprobs)
    model = LedgeredModel(MODEL, lambda: engine, ledger)
    with pytest.raises(MissingLabelError, match=r"^missing_label: "):
        await model.choose(request(), ("A", "B"))
    model.commit()
    request_id = request().choice_id(MODEL, ("A", "B"))
    assert ledger.get([request_id])[request_id].logprobs == logprobs
    with pytest.raises(MissingLabelError):
        await LedgeredModel(MODEL, unstarted, ledger).choose(request(), ("A", "B"))


async def test_tokens_are_those_of_the_calls_paid_for(ledger: Ledger) -> None:
    engine = ScriptedEngine(lambda request: "one two three")
    model = LedgeredModel(MODEL, lambda: engine, ledger)
    await asyncio.gather(*(model.complete(request(number=number % 2)) for number in range(6)))
    assert model.usage == Usage(hits=4, misses=2, prompt_tokens=20, completion_tokens=6)


async def test_a_commit_writes_what_was_pending(ledger: Ledger) -> None:
    model = LedgeredModel(MODEL, ScriptedEngine, ledger)
    completions = await asyncio.gather(*(model.complete(request(number=number)) for number in range(3)))
    ids = [completion.request_id for completion in completions]
    assert ledger.get(ids) == {}
    model.commit()
    assert [ledger.get(ids)[request_id].text for request_id in ids] == [each.text for each in completions]
    model.commit()
    assert ledger.totals() == {"initial_responses": 3}


async def test_what_was_paid_for_is_committed_before_more_is_claimed(ledger: Ledger) -> None:
    model = LedgeredModel(MODEL, ScriptedEngine, ledger)
    for number in range(5):
        await model.complete(request(number=number))
    assert ledger.totals() == {"initial_responses": 4}


async def test_pending_calls_are_committed_soon(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_calls, "COMMIT_SECONDS", 0.01)
    model = LedgeredModel(MODEL, ScriptedEngine, ledger)
    for number in range(2):  # the second after the first commit
        completion = await model.complete(request(number=number))
        await asyncio.wait_for(retried_until_kept(ledger, completion.request_id), 5)


async def test_the_time_of_a_call_is_kept(ledger: Ledger) -> None:
    model = LedgeredModel(MODEL, lambda: ScriptedEngine(delay=lambda request: 0.02), ledger)
    completion = await model.complete(request())
    model.commit()
    assert ledger.get([completion.request_id])[completion.request_id].seconds > 0


async def test_a_call_the_engine_fails_at_may_be_asked_again(ledger: Ledger) -> None:
    def fail_once(request: Request) -> str:
        if len(engine.requests) == 1:
            raise OSError("the engine lost its worker")
        return "Hi."

    engine = ScriptedEngine(fail_once)
    model = LedgeredModel(MODEL, lambda: engine, ledger)
    with pytest.raises(OSError, match="lost its worker"):
        await model.complete(request())
    assert (await model.complete(request())).text == "Hi."
    assert (model.usage.misses, model.usage.completion_tokens) == (1, 1)


async def test_a_ledger_that_cannot_be_read_fails_the_calls_instead_of_leaving_them_waiting(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(request_ids: Sequence[str]) -> dict[str, Answer]:
        raise OSError("database is locked")

    monkeypatch.setattr(ledger, "get", unreadable)
    model = LedgeredModel(MODEL, ScriptedEngine, ledger)
    with pytest.raises(OSError, match="database is locked"):
        await asyncio.wait_for(model.complete(request()), 1)


async def test_calls_that_could_not_be_committed_are_committed_later(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LedgeredModel(MODEL, ScriptedEngine, ledger)
    completion = await model.complete(request())
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "put", lambda calls: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            model.commit()
    model.commit()
    assert list(ledger.get([completion.request_id])) == [completion.request_id]


async def test_an_engine_that_does_not_start_is_tried_once(ledger: Ledger) -> None:
    starts: list[int] = []

    def fail() -> ScriptedEngine:
        starts.append(1)
        raise OSError("no such model")

    model = LedgeredModel(MODEL, fail, ledger)
    slots = [Slot("s", str(number)) for number in range(5)]
    calls = [model.complete(Request((Message("user", slot.prompt_id),), slot)) for slot in slots]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert len(starts) == 1
    assert all(isinstance(result, OSError | RuntimeError) for result in results)


async def test_a_call_that_cannot_be_kept_stops_the_payments(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai_dagster.calls.ledgered_model.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(ledger, "put", lambda calls: (_ for _ in ()).throw(OSError("disk full")))
    engine = ScriptedEngine()
    model = LedgeredModel(MODEL, lambda: engine, ledger)
    await model.complete(request())
    await asyncio.sleep(0.05)
    with pytest.raises(OSError, match="disk full"):
        await model.complete(request("Another."))
    assert len(engine.requests) == 1


async def test_of_two_runs_that_need_a_call_one_pays_and_the_other_gets_its_answer(ledger: Ledger) -> None:
    engines = [ScriptedEngine(lambda request, name=name: name, delay=lambda request: 0.05) for name in ("one", "other")]
    models = [LedgeredModel(MODEL, lambda engine=engine: engine, ledger) for engine in engines]
    texts = await asyncio.gather(*(model.complete(request(number=n)) for model in models for n in range(20)))
    assert sum(len(engine.requests) for engine in engines) == 20
    assert [completion.text for completion in texts[:20]] == [completion.text for completion in texts[20:]]
    assert sum(model.usage.misses for model in models) == sum(model.usage.hits for model in models) == 20


async def test_claims_that_cross_do_not_wait_for_each_other(ledger: Ledger) -> None:
    engines = [ScriptedEngine(delay=lambda request: 0.02) for _ in range(2)]
    models = [LedgeredModel(MODEL, lambda engine=engine: engine, ledger) for engine in engines]

    async def one_by_one(model: LedgeredModel, order: Sequence[int]) -> None:
        for number in order:
            await model.complete(request(number=number))

    runs = [one_by_one(models[0], range(6)), one_by_one(models[1], range(5, -1, -1))]
    await asyncio.wait_for(asyncio.gather(*runs), 20)
    assert sorted(each.slot.prompt_id for engine in engines for each in engine.requests) == [f"p{n}" for n in range(6)]


async def test_a_call_that_failed_in_one_run_is_made_by_the_other(ledger: Ledger) -> None:
    def fail(request: Request) -> str:
        raise OSError("the engine lost its worker")

    failing = LedgeredModel(MODEL, lambda: ScriptedEngine(fail, delay=lambda request: 0.05), ledger)
    waiting = LedgeredModel(MODEL, lambda: ScriptedEngine(lambda request: "Hi."), ledger)
    failed, completion = await asyncio.gather(
        failing.complete(request()), waiting.complete(request()), return_exceptions=True
    )
    assert isinstance(failed, OSError)
    assert isinstance(completion, Completion)
    assert completion.text == "Hi."


async def test_a_run_that_stands_still_past_its_lease_loses_its_claims_and_its_answer_is_overruled(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai_dagster.calls.claims.BEAT_SECONDS", 60.0)
    monkeypatch.setattr("cai_dagster.calls.claims.LEASE_SECONDS", 0.0)
    paused = LedgeredModel(MODEL, lambda: ScriptedEngine(lambda request: "late"), ledger)
    completion = await paused.complete(request())
    other = LedgeredModel(MODEL, lambda: ScriptedEngine(lambda request: "first"), ledger)
    monkeypatch.setattr(paused, "_write", lambda: None)
    assert (await asyncio.wait_for(other.complete(request()), 20)).text == "first"
    other.commit()
    monkeypatch.undo()
    paused.commit()
    assert paused.overruled == {completion.request_id}
    assert not other.overruled
    assert (await paused.complete(request())).text == "first"
