"""A call that ended badly is made again alone; what it answered before stays in the ledger."""

from pathlib import Path
from typing import Any

import pytest

from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.requests import Request, Sampling, Slot
from cai_dagster.calls.retries import RetryError, calls_to_retry
from cai_dagster.home import Home
from cai_dagster.lake.snapshots import Account
from cai_dagster.models.messages import Message
from resources.lake import open_lake
from tests.lake_rows import judged_under
from tests.scripted_graph import WITHOUT_TRAINING, materialize, metadata, write_prompts


def revision_row(number: int, critique_end: str, revision_end: str) -> dict[str, Any]:
    ids = {"critique_request_id": f"{2 * number:064x}", "revision_request_id": f"{2 * number + 1:064x}"}
    ends = {"critique_finish_reason": critique_end, "revision_finish_reason": revision_end}
    texts = {"response": "r", "critique": "c", "revision": "v"}
    row = {"prompt_id": f"{number:032x}", "sample": 0, "round": 1, "principle_id": "ab"}
    return {**row, **ids, **ends, **texts}


@pytest.fixture
def revised(home: Home) -> Home:
    """Three rows of revision_rounds, of which one critique and two revisions were cut, and one rejected row."""
    lake = open_lake(home)
    staged = lake.stage("revision_rounds", "v1")
    ends = [("stop", "length"), ("length", "length"), ("stop", "stop")]
    staged.add(revision_row(number, *end) for number, end in enumerate(ends))
    staged.reject("x/0", f"empty_completion: no text (request {'f' * 64})", {})
    staged.close()
    lake.commit(staged, Account("run", "scripted"))
    return home


def test_the_calls_that_ended_so_are_found_whatever_their_column(revised: Home) -> None:
    cut = calls_to_retry(open_lake(revised), "revision_rounds", "length", "v1")
    assert sorted(cut) == [f"{number:064x}" for number in (1, 2, 3)]
    assert calls_to_retry(open_lake(revised), "revision_rounds", "empty_completion", "v1") == ["f" * 64]


def test_a_call_that_was_not_made_is_no_call_to_retry(home: Home) -> None:
    """A judgement without a rationale has no finish reason."""
    lake = open_lake(home)
    staged = lake.stage("judgements", "v1")
    row = {"principle_id": "ab", "logp_a": -1.0, "logp_b": -1.0, "feedback_model": "m", "request_id": "ab"}
    row |= judged_under("ab")
    ended = {"rationale": "so", "rationale_finish_reason": "length", "rationale_request_id": "c" * 64}
    staged.add([{**row, "pair_id": "0a", "order": "01"}, {**row, "pair_id": "0b", "order": "01", **ended}])
    staged.close()
    lake.commit(staged, Account("run", "scripted"))
    assert calls_to_retry(lake, "judgements", "length", "v1") == ["c" * 64]
    with pytest.raises(RetryError, match="there is 1 × length"):
        calls_to_retry(lake, "judgements", "abort", "v1")


def test_nothing_to_retry_says_what_there_is(revised: Home) -> None:
    lake = open_lake(revised)
    with pytest.raises(
        RetryError, match="no call ended with 'abort'; there is 1 × empty_completion, 3 × length, 3 × stop"
    ):
        calls_to_retry(lake, "revision_rounds", "abort", "v1")
    with pytest.raises(
        RetryError, match="prompts is not made of calls; --table takes initial_responses, revision_rounds"
    ):
        calls_to_retry(lake, "prompts", "length", None)


def test_a_call_made_again_is_another_call_with_another_seed_and_room() -> None:
    request = Request((Message("user", "hello"),), Slot("s", "p"), Sampling(max_tokens=8))
    again = request.again(32)
    assert again.seed != request.seed
    assert again.again(None).seed not in {request.seed, again.seed}
    assert again.sampling.max_tokens == again.again(None).sampling.max_tokens == 32
    assert len({one.completion_id("m") for one in (request, again, again.again(None))}) == 3
    assert request.again(None).choice_id("m", ("A", "B")) != request.choice_id("m", ("A", "B"))


def test_only_the_row_whose_call_is_made_again_is_paid_for(home: Home, tmp_path: Path) -> None:
    texts = [*(f"question {number}" for number in range(30)), "say nothing"]
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", texts)}
    first = WITHOUT_TRAINING[:3]
    materialize(first, config, silent_on="say nothing", answers_from_attempt=2)
    lake, ledger = open_lake(home), Ledger(home.ledger)
    for attempt in (1, 2):
        assert lake.snapshot("initial_responses").frame().height == 30
        ledger.retry(calls_to_retry(lake, "initial_responses", "empty_completion", None), "empty_completion")
        result = materialize(["initial_responses"], config, silent_on="say nothing", answers_from_attempt=2)
        assert metadata(result, "initial_responses")["ledger_misses"] == 1, attempt
    assert lake.snapshot("initial_responses").frame().height == 31
    assert not lake.rejected("initial_responses").height
    assert ledger.totals()["initial_responses"] == 33
