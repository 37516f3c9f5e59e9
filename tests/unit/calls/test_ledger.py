"""The ledger keeps every answer as it was paid for, for whoever opens it."""

import sqlite3
import threading
from pathlib import Path

import pytest

from cai_dagster.calls.ledger import SCHEMA_VERSION, Ledger, LedgerError
from cai_dagster.calls.requests import Answer, PaidCall, Slot

PLAIN = Answer("An answer.", "stop", 12, 3, 0.25)


def paid(request_id: str, answer: Answer = PLAIN, stage: str = "initial_responses") -> PaidCall:
    return PaidCall(request_id, "model@0123", Slot(stage, "p1", 1, 2), answer)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN,
        Answer("", "length", 0, 0, 0.0),
        Answer("", "stop", 5, 1, 0.1, (-0.25, -1.5)),
        Answer("", "stop", 5, 1, 0.1, (-0.25, None)),
        Answer("", "stop", 5, 1, 0.1, (None, None)),
        Answer("", "stop", 5, 1, 0.1, ()),
        Answer("", "stop", 5, 1, 0.1, (float("-inf"), -1e-300, -0.1 - 0.2)),
        Answer("東京 🙂 e\u0301 \ufeff \u202e \u2028", "stop", 1, 1, 1e-9),
        Answer("'; DROP TABLE calls; -- %s :x ? {}", "stop", 1, 1, 1e9),
        Answer("a\0b \x1b[31m \r\n\t ", "stop", 1, 1, 0.5),
        Answer("<|im_end|>" * 20_000, "length", 2**31, 2**31, 0.5),
        Answer("half of an emoji: \ud83d", "length", 1, 1, 0.5),
        Answer('"\\ud83d" as text', "stop", 1, 1, 0.5),
    ],
    ids=lambda answer: f"{answer.text[:12]!a} {answer.logprobs}",
)
def test_an_answer_comes_back_as_it_was_put(ledger: Ledger, answer: Answer) -> None:
    ledger.put([paid("r1", answer)])
    assert ledger.get(["r1"]) == {"r1": answer}


def test_what_a_database_does_not_hold_is_kept_escaped_and_the_rest_as_it_is(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite").put(
        [paid(name, Answer(text, "stop", 1, 1, 0.1)) for name, text in (("a", "\ud83d"), ("b", "a\0b"), ("c", "é"))]
    )
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        kept = connection.execute("SELECT text, escaped FROM calls ORDER BY request_id").fetchall()
    assert kept == [('"\\ud83d"', 1), ('"a\\u0000b"', 1), ("é", 0)]


def test_a_text_that_is_no_unicode_costs_no_other_call_of_its_batch(ledger: Ledger) -> None:
    ledger.put([paid("a"), paid("b", Answer("\udc00", "stop", 1, 1, 0.1)), paid("c")])
    assert set(ledger.get(["a", "b", "c"])) == {"a", "b", "c"}


def test_the_first_answer_to_a_request_stays(ledger: Ledger) -> None:
    ledger.put([paid("r1")])
    ledger.put([paid("r1", Answer("Another.", "length", 1, 1, 9.0, (-1.0,))), paid("r2")])
    assert ledger.get(["r1", "r2"]) == {"r1": PLAIN, "r2": PLAIN}


def test_of_two_answers_in_one_transaction_the_first_stays(ledger: Ledger) -> None:
    ledger.put([paid("r1"), paid("r1", Answer("Another.", "stop", 1, 1, 1.0))])
    assert ledger.get(["r1"]) == {"r1": PLAIN}


def test_ids_that_were_never_paid_for_are_absent(ledger: Ledger) -> None:
    ledger.put([paid("r1")])
    assert ledger.get(["r0", "r1", "R1", "r%"]) == {"r1": PLAIN}
    assert ledger.get([]) == {}


def test_nothing_is_put_when_there_is_nothing(ledger: Ledger) -> None:
    ledger.put([])
    assert ledger.totals() == {}


@pytest.mark.parametrize("count", [500, 501, 1_234])
def test_any_number_of_ids_is_looked_up(ledger: Ledger, count: int) -> None:
    ids = [f"r{number}" for number in range(count)]
    ledger.put(paid(each, Answer(each, "stop", 1, 1, 0.0)) for each in ids)
    found = ledger.get([*ids, *(f"missing{number}" for number in range(700))])
    assert {request_id: answer.text for request_id, answer in found.items()} == dict(zip(ids, ids, strict=True))


def test_totals_count_the_calls_of_each_stage(ledger: Ledger) -> None:
    ledger.put([paid("r1"), paid("r2"), paid("r3", stage="judgements"), paid("r1", stage="judgements")])
    assert ledger.totals() == {"initial_responses": 2, "judgements": 1}


def test_answers_survive_reopening(tmp_path: Path) -> None:
    file = tmp_path / "folders" / "that are new" / "ledger.sqlite"
    first = Ledger(file)
    first.put([paid("r1")])
    first.close()
    assert Ledger(file).get(["r1"]) == {"r1": PLAIN}


def test_a_put_is_seen_by_another_opening_at_once(tmp_path: Path) -> None:
    writer, reader = Ledger(tmp_path / "ledger.sqlite"), Ledger(tmp_path / "ledger.sqlite")
    assert reader.get(["r1"]) == {}
    writer.put([paid("r1")])
    assert reader.get(["r1"]) == {"r1": PLAIN}


def test_two_openings_write_side_by_side(tmp_path: Path) -> None:
    ledgers = [Ledger(tmp_path / "ledger.sqlite") for _ in range(2)]
    for number in range(20):
        ledgers[number % 2].put([paid(f"r{number}"), paid("shared", Answer(f"{number}", "stop", 1, 1, 0.0))])
    assert ledgers[0].get(["shared"])["shared"].text == "0"
    assert ledgers[1].totals() == {"initial_responses": 21}


def test_many_may_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(4)
    problems: list[Exception] = []

    def open_and_put(file: Path, request_id: str) -> None:
        together.wait()
        try:
            ledger = Ledger(file)
            ledger.put([paid(request_id)])
            ledger.close()
        except Exception as error:  # noqa: BLE001
            problems.append(error)

    for attempt in range(10):
        file = tmp_path / f"ledger{attempt}.sqlite"
        threads = [threading.Thread(target=open_and_put, args=(file, f"r{number}")) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == []


def test_the_database_is_in_wal_mode(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite").put([paid("r1")])
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, SCHEMA_VERSION - 1, 0])
def test_a_ledger_of_another_schema_is_refused_and_left_as_it_was(tmp_path: Path, version: int) -> None:
    file = tmp_path / "ledger.sqlite"
    ledger = Ledger(file)
    ledger.put([paid("r1")])
    ledger.close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE ledger_schema SET version = ?", (version,))
    with pytest.raises(LedgerError, match=rf"schema version {version}.*{SCHEMA_VERSION}"):
        Ledger(file)
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT version FROM ledger_schema").fetchall() == [(version,)]
        assert connection.execute("SELECT count(*) FROM calls").fetchone() == (1,)


def test_the_last_retry_of_a_call_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.put([paid("r1")])
    ledger.retry(["r1"], "length", 64)
    ledger.retry(["r1"], "length", 128)
    assert Ledger(tmp_path / "ledger.sqlite").retries() == {"r1": 128}


def test_lengths_are_the_mean_and_variance_of_a_models_calls_in_a_stage(ledger: Ledger) -> None:
    for number, tokens in enumerate((10, 20, 60)):
        ledger.put([paid(f"r{number}", Answer("x", "stop", tokens - 5, 5, 0.1), stage="judgements")])
    (lengths,) = ledger.lengths()
    assert (lengths.model_id, lengths.stage, lengths.calls) == ("model@0123", "judgements", 3)
    assert lengths.prompt_mean + lengths.completion_mean == pytest.approx(30)


def test_a_put_names_the_calls_that_are_answered_otherwise(ledger: Ledger) -> None:
    costlier = Answer(PLAIN.text, PLAIN.finish_reason, 99, 99, 9.0)
    other = Answer("Another answer.", "stop", 12, 3, 0.25)
    assert ledger.put([paid("a"), paid("b")]) == set()
    assert ledger.put([paid("a", costlier), paid("b", other), paid("c", other)]) == {"b"}
