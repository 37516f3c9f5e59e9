from cai_dagster.calls.requests import Request
from cai_dagster.constitution.constitution import Constitution, Dialogue, Principle
from cai_dagster.models.messages import Message
from cai_dagster.recipes.critique_revision import (
    CRITIQUE,
    REVISION,
    Round,
    critique_messages,
    revise,
    revision_messages,
)
from cai_dagster.recipes.settings import RevisionRoundsSettings
from cai_dagster.tables.registry import TABLES
from tests.scripted import ScriptedEngine, ScriptedModel

PRINCIPLES = tuple(
    Principle(f"p{number}", f"criticise by {number}", f"rewrite by {number}", "which?") for number in range(6)
)
EXAMPLES = tuple(Dialogue(*(f"example {name}{number}" for name in "pqrstu")) for number in range(2))
CONSTITUTION = Constitution("v1", PRINCIPLES, EXAMPLES)
PROMPT = (Message("user", "the question"),)


def configured(rounds: int = 4, seed: int = 0, temperature: float = 1.0) -> RevisionRoundsSettings:
    return RevisionRoundsSettings(
        rounds=rounds,
        splits=["sft"],
        temperature=temperature,
        top_p=0.9,
        critique_max_tokens=11,
        revision_max_tokens=22,
        seed=seed,
    )


async def run(
    engine: ScriptedEngine, settings: RevisionRoundsSettings, prompt_id: str = "ab", sample: int = 0
) -> list[Round]:
    return await revise(ScriptedModel(engine), CONSTITUTION, prompt_id, sample, PROMPT, "the response", settings)


async def test_rounds_alternate_critique_and_revision() -> None:
    engine = ScriptedEngine()
    rounds = await run(engine, configured(rounds=3))
    assert [made.number for made in rounds] == [1, 2, 3]
    assert [(request.slot.stage, request.slot.round) for request in engine.requests] == [
        (stage, number) for number in (1, 2, 3) for stage in (CRITIQUE, REVISION)
    ]
    for made, critique, revision in zip(rounds, engine.requests[::2], engine.requests[1::2], strict=True):
        assert made.critique.request_id == critique.completion_id("scripted")
        assert made.revision.request_id == revision.completion_id("scripted")


async def test_each_round_criticises_the_revision_before_it() -> None:
    engine = ScriptedEngine()
    rounds = await run(engine, configured())
    expected = ["the response", *(made.revision.text for made in rounds[:-1])]
    assert [made.response for made in rounds] == expected
    assert len(set(expected)) == 4
    criticised = [request.messages[-2] for request in engine.requests[::2]]
    assert criticised == [Message("assistant", text) for text in expected]


async def test_a_dialogue_holds_no_turn_of_an_earlier_round() -> None:
    engine = ScriptedEngine()
    await run(engine, configured())
    assert {len(request.messages) for request in engine.requests[::2]} == {12 + 3}
    assert {len(request.messages) for request in engine.requests[1::2]} == {12 + 5}


async def test_the_revision_is_asked_for_after_the_critique_in_the_same_dialogue() -> None:
    engine = ScriptedEngine()
    for made, critique, revision in zip(
        await run(engine, configured()), engine.requests[::2], engine.requests[1::2], strict=True
    ):
        assert revision.messages == (
            *critique.messages,
            Message("assistant", made.critique.text),
            Message("user", made.principle.revision_request),
        )


async def test_each_round_uses_the_requests_of_its_own_principle() -> None:
    engine = ScriptedEngine()
    rounds = await run(engine, configured())
    for made, critique, revision in zip(rounds, engine.requests[::2], engine.requests[1::2], strict=True):
        assert critique.messages[-1] == Message("user", made.principle.critique_request)
        assert revision.messages[-1] == Message("user", made.principle.revision_request)


async def test_principles_differ_between_rounds_and_prompts_and_are_drawn_again_alike() -> None:
    async def drawn(seed: int = 0) -> list[list[str]]:
        made = [await run(ScriptedEngine(), configured(seed=seed), f"{number:x}") for number in range(20)]
        return [[each.principle.slug for each in rounds] for rounds in made]

    first = await drawn()
    assert first == await drawn()
    assert first != await drawn(seed=1)
    assert sum(len(set(slugs)) > 1 for slugs in first) > 15
    assert len({tuple(slugs) for slugs in first}) > 15
    assert {slug for slugs in first for slug in slugs} == {principle.slug for principle in PRINCIPLES}


async def test_every_call_has_a_slot_and_a_seed_of_its_own() -> None:
    requests: list[Request] = []
    for prompt_id, sample in (("ab", 0), ("ab", 1), ("cd", 0)):
        engine = ScriptedEngine()
        await run(engine, configured(), prompt_id, sample)
        assert {(request.slot.prompt_id, request.slot.sample) for request in engine.requests} == {(prompt_id, sample)}
        requests += engine.requests
    assert len({request.slot for request in requests}) == len(requests) == 3 * 8
    assert len({request.seed for request in requests}) == len(requests)


async def test_fewer_rounds_are_the_first_ones_of_more() -> None:
    assert await run(ScriptedEngine(), configured(rounds=2)) == (await run(ScriptedEngine(), configured()))[:2]


async def test_critiques_and_revisions_are_drawn_as_configured() -> None:
    engine = ScriptedEngine()
    await run(engine, configured(rounds=1, seed=5, temperature=0.3))
    critique, revision = (request.sampling for request in engine.requests)
    assert (critique.max_tokens, revision.max_tokens) == (11, 22)
    for sampling in (critique, revision):
        assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.3, 0.9, 5)


def test_the_examples_come_first_and_in_full() -> None:
    messages = critique_messages(EXAMPLES, PROMPT, "the response", PRINCIPLES[0])
    assert [message.content for message in messages] == [
        *(f"example {name}{number}" for number in range(2) for name in "pqrstu"),
        "the question",
        "the response",
        "criticise by 0",
    ]
    assert [message.role for message in messages] == [*["user", "assistant"] * 7, "user"]


def test_a_system_prompt_of_the_user_stays_first() -> None:
    prompt = (Message("system", "be brief"), *PROMPT, Message("assistant", "what?"), Message("user", "that"))
    messages = critique_messages(EXAMPLES, prompt, "the response", PRINCIPLES[0])
    assert messages[0] == Message("system", "be brief")
    assert [message.role for message in messages[1:]] == [*["user", "assistant"] * 8, "user"]
    assert messages[-5:-2] == prompt[1:]


def test_without_examples_the_dialogue_is_the_prompt_and_its_response() -> None:
    critique = critique_messages((), PROMPT, "the response", PRINCIPLES[2])
    assert critique == (*PROMPT, Message("assistant", "the response"), Message("user", "criticise by 2"))
    assert revision_messages(critique, "poor", PRINCIPLES[2]) == (
        *critique,
        Message("assistant", "poor"),
        Message("user", "rewrite by 2"),
    )


async def test_a_round_is_a_row_of_its_table() -> None:
    (made,) = await run(ScriptedEngine(), configured(rounds=1))
    row = made.to_row()
    filled_in_elsewhere = {"constitution_version", "prompt_id", "sample"}
    assert set(row) == set(TABLES["revision_rounds"].schema.names()) - filled_in_elsewhere
    assert (row["response"], row["critique"], row["revision"]) == (
        "the response",
        f"{CRITIQUE} 1 of ab",
        f"{REVISION} 1 of ab",
    )
    assert row["principle_id"] == made.principle.id
    assert row["critique_request_id"] == made.critique.request_id != row["revision_request_id"]
