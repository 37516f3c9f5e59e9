import math
from pathlib import Path

import pytest

from cai_dagster.calls.requests import MissingLabelError, Request
from cai_dagster.constitution.constitution import Comparison, Principle
from cai_dagster.inputs.pairs import Pair
from cai_dagster.judging.judgement import Score
from cai_dagster.judging.scoring import SCORE_PREFILL, SCORES, judge_by_scores, preference, score_completion
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.messages import Message
from tests.scripted import ScriptedEngine, ScriptedModel
from tests.tiny_models import write_tiny_model

PROMPT = (Message("user", "the question"),)
PAIR = Pair("ab", "cd", PROMPT, "the first text", "the second text")
PRINCIPLE = Principle("p", "c", "r", "Which is kinder?")
OTHER = Principle("q", "c", "r", "Which is truer?")


def logs(*probabilities: float) -> tuple[float, ...]:
    return tuple(math.log(p) if p else -math.inf for p in probabilities)


def certain(score: int, mass: float = 1.0) -> tuple[float, ...]:
    return logs(*(mass if number == score else 0 for number in range(1, 11)))


def score(*probabilities: float) -> Score:
    return Score(logs(*probabilities), ("ab",))


async def scored(engine: ScriptedEngine, ten_is_a_token: bool = True) -> Score:
    return await score_completion(ScriptedModel(engine, ten_is_a_token), "cd", PROMPT, "a text", PRINCIPLE)


async def test_a_completion_is_scored_alone_by_the_expected_value() -> None:
    engine = ScriptedEngine(logprobs=lambda request: logs(0, 0, 0.2, 0, 0, 0, 0, 0, 0, 0.6))
    made = await scored(engine)
    assert made.expected == pytest.approx((3 * 0.2 + 10 * 0.6) / 0.8)
    assert math.exp(made.log_mass) == pytest.approx(0.8)
    (request,) = engine.requests
    (message,) = request.messages
    assert "Response:\n> a text\n" in message.content
    assert "Response (B)" not in message.content
    assert message.content.index("> a text") < message.content.index("Which is kinder?")
    assert request.prefill == SCORE_PREFILL


async def test_one_and_ten_are_told_apart_where_ten_is_two_tokens() -> None:
    """0.5 for a 1; after it comes a 0 with 0.8: P(10) = 0.4 and P(1) = 0.1."""

    def logprobs(request: Request) -> tuple[float, ...]:
        if request.prefill == f"{SCORE_PREFILL}1":
            return logs(0.8, 0.2)
        return logs(0.5, *[0.05] * 8)

    engine = ScriptedEngine(logprobs=logprobs)
    made = await scored(engine, ten_is_a_token=False)
    assert made.logprobs == pytest.approx(logs(0.1, *[0.05] * 8, 0.4))
    assert len(engine.requests) == len(set(made.request_ids)) == 2


@pytest.mark.parametrize(("zero", "expected"), [(-math.inf, 1), (0.0, 10), (1e-7, 10)])
async def test_a_one_is_never_read_as_ten(zero: float, expected: int) -> None:
    def logprobs(request: Request) -> tuple[float, ...]:
        return (zero, -1.0) if request.prefill.endswith("1") else certain(1)[:9]

    assert (await scored(ScriptedEngine(logprobs=logprobs), ten_is_a_token=False)).expected == expected


async def test_no_score_at_all_is_a_missing_judgement() -> None:
    with pytest.raises(MissingLabelError):
        await scored(ScriptedEngine(logprobs=lambda request: (-math.inf,) * 10))


def test_the_better_score_is_preferred_and_ties_are_halved() -> None:
    """0.5·0.5 that 2 beats 1; 0.5·0.5 that both have 1: 0.25 + 0.125 for those, and 0.25 + 0.125 for the others."""
    first, second = score(0.5, 0.5, *[0.0] * 8), score(0.25, 0.25, 0.5, *[0.0] * 7)
    label = preference(first, second)
    p_0 = 0.5 * (0.25 / 2) + 0.5 * (0.25 + 0.25 / 2)
    assert [math.exp(logprob) for logprob in label.logprobs] == pytest.approx([p_0, 1 - p_0])


def test_the_mass_of_a_preference_is_that_of_both_scores() -> None:
    label = preference(score(*[0.05] * 10), score(*[0.02] * 10))
    assert label.mass == pytest.approx(0.5 * 0.2)
    assert label.logprobs[0] == pytest.approx(label.logprobs[1])


def test_scores_that_exclude_each_other_are_certain() -> None:
    assert preference(Score(certain(9), ("a",)), Score(certain(2), ("b",))).logprobs == (0.0, -math.inf)


@pytest.mark.parametrize("shift", [0.0, -1_000.0])
def test_a_score_is_the_same_however_small_its_mass(shift: float) -> None:
    shifted = Score(tuple(value + shift for value in logs(*[0.05] * 5, *[0.15] * 5)), ("ab",))
    assert shifted.expected == pytest.approx(0.05 * 15 + 0.15 * 40)


async def test_a_pair_has_a_row_a_principle_with_the_raw_scores_of_both() -> None:
    engine = ScriptedEngine(
        logprobs=lambda request: certain(8 if "the first" in request.messages[-1].content else 3, 0.5)
    )
    made = await judge_by_scores(ScriptedModel(engine), PAIR, (PRINCIPLE, OTHER), ())
    rows = [judgement.to_row() for judgement in made]
    assert [row["principle_id"] for row in rows] == [PRINCIPLE.id, OTHER.id]
    assert [row["order"] for row in rows] == ["01", "01"]
    assert (rows[0]["score_0"], rows[0]["score_1"]) == (8, 3)
    assert rows[0]["score_logprobs_0"] == list(certain(8, 0.5))
    assert rows[0]["score_logprobs_1"] == list(certain(3, 0.5))
    assert (rows[0]["logp_a"], rows[0]["logp_b"]) == (pytest.approx(math.log(0.25)), -math.inf)
    assert rows[0]["score_request_ids"] == [request.choice_id("scripted", SCORES) for request in engine.requests[:2]]
    assert rows[0]["request_id"] == rows[0]["score_request_ids"][0]


async def test_a_completion_of_two_pairs_is_the_same_question() -> None:
    engine = ScriptedEngine(logprobs=lambda request: certain(5))
    model = ScriptedModel(engine)
    await judge_by_scores(model, PAIR, (PRINCIPLE,), ())
    await judge_by_scores(model, Pair("ef", "cd", PROMPT, "a third text", "the first text"), (PRINCIPLE,), ())
    ids = [request.choice_id("scripted", SCORES) for request in engine.requests]
    assert ids[0] == ids[3]


async def test_examples_with_scores_are_shown_each_completion_alone() -> None:
    shown = Comparison("Hello", "Hello!", "Go away.", "Which is more polite?", "A", None, 9, 1)
    unscored = Comparison("Hello", "Hi", "Bye", "Which is shorter?", "B")
    engine = ScriptedEngine(logprobs=lambda request: certain(5))
    await score_completion(ScriptedModel(engine), "cd", PROMPT, "a text", PRINCIPLE, (unscored, shown))
    turns = engine.requests[0].messages
    assert [turn.content for turn in turns[1:4:2]] == [f"{SCORE_PREFILL}9).", f"{SCORE_PREFILL}1)."]
    assert ["> Hello!" in turns[0].content, "> Go away." in turns[2].content, len(turns)] == [True, True, 5]


def test_a_tokenizer_with_two_tokens_for_ten_is_recognised(tmp_path: Path) -> None:
    """Bytes: "10" is two tokens, every digit one."""
    chat_format = ChatFormat(write_tiny_model(tmp_path))
    assert not chat_format.tells_apart(SCORE_PREFILL, SCORES)
    assert chat_format.tells_apart(SCORE_PREFILL, SCORES[:-1])
    assert chat_format.tells_apart(f"{SCORE_PREFILL}1", ("0", ")"))
