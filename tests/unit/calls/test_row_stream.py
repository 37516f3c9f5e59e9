"""Rows run side by side, bounded and without barriers; a bad row costs itself alone, a bad stage costs no paid call."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pytest

from cai_dagster.calls import row_stream
from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.requests import LanguageModel, Request, Slot
from cai_dagster.calls.row_stream import (
    HOW_TO_GO_ON,
    Progress,
    Row,
    run_rows,
)
from cai_dagster.calls.token_counts import TokenCounts
from cai_dagster.home import Home
from cai_dagster.lake.staging import StagedRows
from cai_dagster.models.chat_format import ContextTooLongError
from cai_dagster.models.messages import Message
from tests.scripted import ScriptedEngine

STAGE = "initial_responses"


def rows(count: int) -> list[Row]:
    return [{"prompt_id": f"{number:032x}", "number": number} for number in range(count)]


def row_id(row: Row) -> str:
    return row["prompt_id"]


def asked(row: Row, turn: int = 0) -> Request:
    return Request((Message("user", f"Question {row['number']}"),), Slot(STAGE, row_id(row), turn))


def result(row: Row, text: str, request_id: str) -> Row:
    return {
        "prompt_id": row_id(row),
        "sample": 0,
        "completion": text,
        "finish_reason": "stop",
        "request_id": request_id,
        "policy_model": "scripted",
    }


async def answer(model: LanguageModel, row: Row) -> Sequence[Row]:
    completion = await model.complete(asked(row))
    return [result(row, completion.text, completion.request_id)]


@pytest.fixture
def staged(home: Home) -> StagedRows:
    home.staging.mkdir(parents=True)
    return StagedRows(home.staging, STAGE, None)


@pytest.fixture
def ledger(home: Home) -> Ledger:
    return Ledger(home.ledger)


def model_with(ledger: Ledger, engine: ScriptedEngine | None = None) -> LedgeredModel:
    return LedgeredModel("scripted", lambda: engine or ScriptedEngine(), ledger)


def run(
    waiting: Sequence[Row],
    recipe: row_stream.Recipe,
    model: LedgeredModel,
    staged: StagedRows,
    rows_in_flight: int = 4,
) -> list[Progress]:
    reports: list[Progress] = []
    run_rows(iter(waiting), len(waiting), recipe, model, staged, row_id, rows_in_flight, reports.append)
    return reports


def column(staged_parts: Sequence[Any], name: str) -> list[Any]:
    return [value for part in staged_parts for value in pl.read_parquet(part)[name].to_list()]


@pytest.mark.parametrize(("count", "rows_in_flight"), [(0, 4), (1, 4), (4, 4), (50, 4), (50, 1), (50, 64)])
def test_every_row_is_staged_or_rejected(staged: StagedRows, ledger: Ledger, count: int, rows_in_flight: int) -> None:
    async def some_fail(model: LanguageModel, row: Row) -> Sequence[Row]:
        if row["number"] % 7 == 3:
            raise ContextTooLongError(f"number {row['number']}")
        return await answer(model, row)

    run(rows(count), some_fail, model_with(ledger), staged, rows_in_flight)
    bad = {row_id(row) for row in rows(count) if row["number"] % 7 == 3}
    good = column(staged.parts, "prompt_id")
    rejected = column(staged.rejected_parts, "row_id")
    assert sorted(good + rejected) == sorted(row_id(row) for row in rows(count))
    assert set(rejected) == bad
    assert (staged.row_count, staged.rejected_count) == (len(good), len(rejected))


def test_a_row_error_sets_its_row_aside_with_its_reason_and_the_others_go_on(
    staged: StagedRows, ledger: Ledger
) -> None:
    async def second_fails(model: LanguageModel, row: Row) -> Sequence[Row]:
        results = await answer(model, row)
        if row["number"] == 1:
            raise ContextTooLongError("it is the second")
        return results

    run(rows(3), second_fails, model_with(ledger), staged)
    assert column(staged.rejected_parts, "reason") == ["context_too_long: it is the second"]
    assert column(staged.rejected_parts, "row_id") == [row_id(rows(3)[1])]
    assert column(staged.parts, "completion") == [f"{STAGE} 0 of {row_id(row)}" for row in (rows(3)[0], rows(3)[2])]
    assert staged.reasons == {"context_too_long": 1}


def test_an_empty_completion_costs_its_row_alone(staged: StagedRows, ledger: Ledger) -> None:
    engine = ScriptedEngine(lambda request: "" if request.slot.prompt_id == row_id(rows(2)[1]) else "Hi.")
    run(rows(5), answer, model_with(ledger, engine), staged)
    assert staged.reasons == {"empty_completion": 1}
    assert staged.row_count == 4


def test_a_completion_that_is_no_unicode_costs_its_row_alone_and_is_not_paid_for_again(
    staged: StagedRows, ledger: Ledger
) -> None:
    engine = ScriptedEngine(lambda request: "\ud83d" if request.slot.prompt_id == row_id(rows(2)[1]) else "Hi.")
    run(rows(5), answer, model_with(ledger, engine), staged)
    assert staged.reasons == {"malformed_text": 1}
    assert staged.row_count == 4
    model_with(ledger, engine).commit()
    asked_before = len(engine.requests)
    staged.start_again()
    run(rows(5), answer, model_with(ledger, engine), staged)
    assert staged.reasons == {"malformed_text": 1}
    assert len(engine.requests) == asked_before


def test_a_recipe_may_return_several_rows_or_none(staged: StagedRows, ledger: Ledger) -> None:
    async def as_many_as_its_number(model: LanguageModel, row: Row) -> Sequence[Row]:
        (first,) = await answer(model, row)
        return [{**first, "sample": sample} for sample in range(row["number"])]

    run(rows(4), as_many_as_its_number, model_with(ledger), staged)
    assert sorted(column(staged.parts, "sample")) == [0, 0, 0, 1, 1, 2]


def test_another_error_stops_the_stage_and_every_paid_call_is_kept(staged: StagedRows, ledger: Ledger) -> None:
    async def third_breaks(model: LanguageModel, row: Row) -> Sequence[Row]:
        results = await answer(model, row)
        if row["number"] == 2:
            raise ZeroDivisionError("a bug in the recipe")
        return results

    engine = ScriptedEngine()
    with pytest.raises(ZeroDivisionError, match="a bug in the recipe"):
        run(rows(100), third_breaks, model_with(ledger, engine), staged, rows_in_flight=2)
    assert 3 <= len(engine.requests) < 100
    paid = [request.completion_id("scripted") for request in engine.requests[:3]]
    assert set(ledger.get(paid)) == set(paid)


def test_an_engine_that_breaks_stops_the_stage_and_the_calls_before_it_are_kept(
    staged: StagedRows, ledger: Ledger
) -> None:
    def break_down(request: Request) -> str:
        if request.slot.prompt_id == row_id(rows(6)[5]):
            raise ConnectionError("the engine is gone")
        return "Hi."

    with pytest.raises(ConnectionError, match="the engine is gone"):
        run(rows(10), answer, model_with(ledger, ScriptedEngine(break_down)), staged, rows_in_flight=1)
    assert ledger.totals() == {STAGE: 5}


def test_a_stopped_stage_pays_only_for_what_it_had_not_paid(staged: StagedRows, ledger: Ledger, home: Home) -> None:
    async def breaks(model: LanguageModel, row: Row) -> Sequence[Row]:
        results = await answer(model, row)
        if row["number"] == 5:
            raise ZeroDivisionError
        return results

    with pytest.raises(ZeroDivisionError):
        run(rows(10), breaks, model_with(ledger), staged, rows_in_flight=1)
    again = model_with(ledger)
    run(rows(10), answer, again, StagedRows(home.staging, STAGE, None))
    assert (again.usage.hits, again.usage.misses) == (6, 4)


@pytest.mark.parametrize("rows_in_flight", [1, 3, 8])
def test_as_many_rows_are_in_work_as_allowed_and_never_more(
    staged: StagedRows, ledger: Ledger, rows_in_flight: int
) -> None:
    in_work: set[str] = set()
    most = 0

    async def count(model: LanguageModel, row: Row) -> Sequence[Row]:
        nonlocal most
        in_work.add(row_id(row))
        most = max(most, len(in_work))
        results = await answer(model, row)
        in_work.remove(row_id(row))
        return results

    engine = ScriptedEngine(delay=lambda request: 0.001)
    run(rows(30), count, model_with(ledger, engine), staged, rows_in_flight)
    assert most == rows_in_flight


def test_rows_are_taken_from_their_source_only_when_there_is_room(staged: StagedRows, ledger: Ledger) -> None:
    taken: list[int] = []
    done: list[int] = []
    ahead: list[int] = []

    async def note(model: LanguageModel, row: Row) -> Sequence[Row]:
        results = await answer(model, row)
        done.append(row["number"])
        ahead.append(len(taken) - len(done))
        return results

    waiting = (taken.append(row["number"]) or row for row in rows(40))
    run_rows(waiting, 40, note, model_with(ledger), staged, row_id, 4, lambda progress: None)
    assert len(taken) == 40
    assert max(ahead) <= 4


def test_a_fast_row_reaches_its_second_call_before_a_slow_row_ends_its_first(
    staged: StagedRows, ledger: Ledger
) -> None:
    slow, fast = rows(2)
    events: list[tuple[str, str, int]] = []

    def begin(request: Request) -> float:
        events.append(("begin", request.slot.prompt_id, request.slot.round))
        return 0.5 if (request.slot.prompt_id, request.slot.round) == (row_id(slow), 0) else 0.0

    def end(request: Request) -> str:
        events.append(("end", request.slot.prompt_id, request.slot.round))
        return "Hi."

    async def twice(model: LanguageModel, row: Row) -> Sequence[Row]:
        await model.complete(asked(row))
        await model.complete(asked(row, turn=1))
        return []

    run([slow, fast], twice, model_with(ledger, ScriptedEngine(end, delay=begin)), staged, rows_in_flight=2)
    assert events.index(("begin", row_id(slow), 0)) < events.index(("begin", row_id(fast), 1))
    assert events.index(("begin", row_id(fast), 1)) < events.index(("end", row_id(slow), 0))
    assert ("end", row_id(slow), 1) in events


def test_a_free_place_is_taken_by_the_next_row_at_once(staged: StagedRows, ledger: Ledger) -> None:
    others_done = 0
    released = asyncio.Event()

    async def first_waits_for_all_others(model: LanguageModel, row: Row) -> Sequence[Row]:
        nonlocal others_done
        if row["number"] == 0:
            await asyncio.wait_for(released.wait(), 10)
        else:
            others_done += 1
            if others_done == 19:
                released.set()
        return await answer(model, row)

    run(rows(20), first_waits_for_all_others, model_with(ledger), staged, rows_in_flight=2)
    assert staged.row_count == 20


def test_a_finished_stage_has_committed_its_calls(staged: StagedRows, ledger: Ledger) -> None:
    run(rows(5), answer, model_with(ledger), staged)
    assert ledger.totals() == {STAGE: 5}


def test_progress_is_reported_while_no_row_is_done_and_with_what_was_done_and_paid(
    staged: StagedRows, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine(lambda request: "two words")
    told = asyncio.Event()
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        told.set()

    async def told_after_each_call(model: LanguageModel, row: Row) -> Sequence[Row]:
        results = await answer(model, row)
        told.clear()
        await told.wait()
        if row["number"] == 2:
            raise ContextTooLongError("the last")
        return results

    monkeypatch.setattr(row_stream, "REPORT_SECONDS", 0.001)
    run_rows(iter(rows(3)), 3, told_after_each_call, model_with(ledger, engine), staged, row_id, 1, report)
    seen = [(one.done, one.rejected, one.paid, one.paid_of_done, one.tokens.total) for one in reports]
    after_each_call = [(0, 0, 1, 0, 12), (1, 0, 2, 1, 24), (2, 0, 3, 2, 36)]
    assert [one for one in dict.fromkeys(seen) if one in after_each_call] == after_each_call
    assert staged.rejected_count == 1


def test_a_fast_stage_reports_nothing(staged: StagedRows, ledger: Ledger) -> None:
    assert run(rows(30), answer, model_with(ledger), staged) == []


def test_what_is_left_follows_from_the_calls_and_not_from_rows_that_end_together() -> None:
    all_under_way = Progress(
        2, 20, 0, 60, 60, paid_of_done=8, paid_lately=4.0, tokens=TokenCounts(30_000, 10_000, 18_600), paid_seconds=60.0
    )
    assert all_under_way.seconds_left == pytest.approx(20)
    assert str(all_under_way) == (
        "2 of 20 rows, 0 rejected, 60 calls, 500 prompt + 167 completion tokens/s, 62 % of prompts cached, "
        "about 20 s left"
    )


def test_the_progress_of_two_processes_is_that_of_their_rows_together() -> None:
    one = Progress(2, 10, 1, 30, 30, paid_of_done=8, paid_lately=4.0, tokens=TokenCounts(300, 100, 60), paid_seconds=60)
    other = Progress(6, 10, 0, 30, 10, paid_of_done=6, paid_lately=0.0, tokens=TokenCounts(100, 20, 0), paid_seconds=40)
    assert one + other == Progress(8, 20, 1, 60, 40, 14, 1.0, TokenCounts(400, 120, 60), 60)


def test_what_is_left_is_not_guessed_before_a_row_is_done() -> None:
    begun = Progress(0, 10, 0, 5, 5, 0, 0.0, TokenCounts(70, 30), 10.0)
    assert str(begun) == "0 of 10 rows, 0 rejected, 5 calls, 7 prompt + 3 completion tokens/s"


def test_what_the_ledger_had_says_nothing_of_the_time_that_is_left() -> None:
    found = Progress(900, 1_000, 0, 3_600, 0, 0, 0.0, TokenCounts(), 0.0)
    assert str(found) == "900 of 1,000 rows, 0 rejected, 3,600 calls (0 paid), 0 tokens/s"
    paid = TokenCounts(300, 100)
    then_paid = Progress(910, 1_000, 0, 3_640, 40, paid_of_done=40, paid_lately=4.0, tokens=paid, paid_seconds=20.0)
    assert then_paid.seconds_left == pytest.approx(20.0 / 40 * 90 * 4)


def test_rows_from_the_ledger_and_rows_to_be_paid_for_are_told_apart(
    staged: StagedRows, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(rows(30), answer, model_with(ledger), staged)
    monkeypatch.setattr(row_stream, "REPORT_SECONDS", 0.001)
    last = run(rows(60), answer, model_with(ledger, ScriptedEngine(delay=lambda request: 0.01)), staged)[-1]
    assert last.calls - last.paid == 30
    assert 0 < last.paid_lately <= 1


@pytest.fixture
def pythons_own_handler() -> Iterator[None]:
    """Ctrl-C as Python handles it, whatever a library that an earlier test loaded has made of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("pythons_own_handler")
def test_an_interrupt_commits_what_was_paid_for_and_then_goes_where_it_would_have_gone(
    staged: StagedRows, ledger: Ledger
) -> None:
    """The handler of whoever was in charge raises (as Python's and Dagster's do), and says how to go on."""
    rows = [{"number": number} for number in range(20)]
    engine = ScriptedEngine(delay=lambda request: 0.0 if int(request.slot.prompt_id) < 5 else 60.0)
    model = LedgeredModel("model@0", lambda: engine, ledger)

    async def recipe(model: LanguageModel, row: Row) -> list[Row]:
        slot = Slot("initial_responses", str(row["number"]))
        await model.complete(Request((Message("user", slot.prompt_id),), slot))
        if row["number"] == 4:
            signal.raise_signal(signal.SIGINT)
        return []

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as raised:
        run_rows(rows, 20, recipe, model, staged, str, 8, lambda progress: None)
    assert raised.value.__notes__ == [HOW_TO_GO_ON]
    assert signal.getsignal(signal.SIGINT) is before
    assert sum(ledger.totals().values()) == 5
