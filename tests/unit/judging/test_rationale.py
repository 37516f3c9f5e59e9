from cai_dagster.calls.requests import Request
from cai_dagster.constitution.constitution import Comparison, Principle
from cai_dagster.inputs.pairs import Pair
from cai_dagster.judging.questions import ANSWER, LABELS, PREFILL
from cai_dagster.judging.rationale import THINKING, judge_after_a_rationale
from cai_dagster.models.messages import Message
from tests.scripted import ScriptedEngine, ScriptedModel

PAIR = Pair("ab", "cd", (Message("user", "the question"),), "the first text", "the second text")
PRINCIPLES = (Principle("p", "c", "r", "Which is kinder?"), Principle("q", "c", "r", "Which is truer?"))
REASONED = Comparison("Hello", "Hello!", "Go away.", "Which is more polite?", "A", "Only (A) greets back.")
BARE = Comparison("Hello", "Hello!", "Go away.", "Which is shorter?", "A")


def reasons(request: Request) -> str:
    """A rationale that names what stands as (A)."""
    return " (A) says " + request.messages[-1].content.split("Response (A):\n")[1].split("\n")[0]


async def test_the_label_is_asked_for_after_the_rationale_in_each_order() -> None:
    engine = ScriptedEngine(reasons)
    made = await judge_after_a_rationale(ScriptedModel(engine), PAIR, PRINCIPLES[:1], ("01", "10"), (), 99)
    assert [request.prefill for request in engine.requests] == [THINKING, PREFILL] * 2
    asked, labelled = engine.requests[:2]
    assert labelled.messages == (
        *asked.messages,
        Message("assistant", f"{THINKING} (A) says > the first text"),
        Message("user", ANSWER),
    )
    rows = [judgement.to_row() for judgement in made]
    assert [row["rationale"] for row in rows] == [" (A) says > the first text", " (A) says > the second text"]
    assert rows[0]["rationale_request_id"] == asked.completion_id("scripted")
    assert rows[0]["request_id"] == labelled.choice_id("scripted", LABELS)
    assert (rows[0]["rationale_finish_reason"], rows[0]["method"]) == ("stop", "rationale")


async def test_the_rationale_is_greedy_and_as_long_as_asked() -> None:
    engine = ScriptedEngine(reasons)
    await judge_after_a_rationale(ScriptedModel(engine), PAIR, PRINCIPLES, ("01",), (), 99)
    asked = [request for request in engine.requests if request.prefill == THINKING]
    assert len(asked) == len(PRINCIPLES)
    assert {(request.sampling.temperature, request.sampling.max_tokens, request.seed) for request in asked} == {
        (0, 99, None)
    }


async def test_another_rationale_is_another_question_for_the_label() -> None:
    async def label_id(rationale: str) -> str:
        model = ScriptedModel(ScriptedEngine(lambda request: rationale))
        (judgement,) = await judge_after_a_rationale(model, PAIR, PRINCIPLES[:1], ("01",), (), 99)
        return judgement.label.request_id

    assert await label_id("because") != await label_id("therefore")


async def test_examples_reason_as_the_model_shall_and_those_without_a_rationale_are_left_out() -> None:
    engine = ScriptedEngine(reasons)
    await judge_after_a_rationale(ScriptedModel(engine), PAIR, PRINCIPLES[:1], ("01",), (BARE, REASONED), 99)
    example = engine.requests[0].messages[:-1]
    assert "Which is more polite?" in example[0].content
    assert example[1:] == (
        Message("assistant", f"{THINKING} Only (A) greets back."),
        Message("user", ANSWER),
        Message("assistant", f"{PREFILL}A)."),
    )
