import pytest

from cai_dagster.calls.requests import Completion
from cai_dagster.inputs.pairs import pair_row
from cai_dagster.models.messages import Message
from cai_dagster.recipes.response_pairs import STAGE, sample_pairs
from cai_dagster.recipes.settings import PairSource, ResponsePairsSettings
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import TABLES
from tests.scripted import ScriptedEngine, ScriptedModel

PROMPT = (Message("system", "be brief"), Message("user", "the question"))


def configured(pairs_per_prompt: int = 3) -> ResponsePairsSettings:
    drawn = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 33, "seed": 5}
    changes = {"source": PairSource.sl_cai_model, "pairs_per_prompt": pairs_per_prompt, **drawn}
    return active_settings().response_pairs.model_copy(update=changes)


def by_sample() -> ScriptedEngine:
    return ScriptedEngine(lambda request: f"text {request.slot.sample}")


@pytest.mark.parametrize("count", [1, 3])
async def test_a_prompt_gets_its_pairs_each_of_two_samples(count: int) -> None:
    engine = by_sample()
    rows = await sample_pairs(ScriptedModel(engine), "ab", PROMPT, configured(count))
    assert [(row["completion_0"], row["completion_1"]) for row in rows] == [
        (f"text {2 * number}", f"text {2 * number + 1}") for number in range(count)
    ]
    assert len({row["pair_id"] for row in rows}) == len(rows)
    for row in rows:
        assert (row["prompt_id"], row["source"]) == ("ab", "sl_cai_model")
        assert set(row) == set(TABLES["response_pairs"].schema.names()) - {"constitution_version"}


async def test_every_sample_has_a_slot_and_a_seed_of_its_own() -> None:
    engine = by_sample()
    rows = await sample_pairs(ScriptedModel(engine), "ab", PROMPT, configured())
    assert [request.slot.sample for request in engine.requests] == list(range(6))
    assert {(request.slot.stage, request.slot.prompt_id) for request in engine.requests} == {(STAGE, "ab")}
    assert len({request.seed for request in engine.requests}) == 6
    ids = [row[name] for row in rows for name in ("request_id_0", "request_id_1")]
    assert ids == [request.completion_id("scripted") for request in engine.requests]


async def test_samples_are_drawn_as_configured_from_the_whole_prompt() -> None:
    engine = by_sample()
    await sample_pairs(ScriptedModel(engine), "ab", PROMPT, configured())
    for request in engine.requests:
        assert request.messages == PROMPT
        assert request.sampling == configured().sampling
        assert (request.sampling.max_tokens, request.sampling.seed) == (33, 5)


async def test_a_pair_that_comes_up_again_is_one_row() -> None:
    engine = ScriptedEngine(lambda request: ["one", "two", "one", "two", "two", "one"][request.slot.sample])
    rows = await sample_pairs(ScriptedModel(engine), "ab", PROMPT, configured())
    assert [(row["completion_0"], row["completion_1"]) for row in rows] == [("one", "two"), ("two", "one")]


def test_the_pair_id_follows_texts_and_prompt_alone() -> None:
    first, second = Completion("one", "stop", "aa"), Completion("two", "length", "bb")
    pair_id = pair_row("ab", "revisions", first, second)["pair_id"]
    others = Completion("one", "length", "cc"), Completion("two", "stop", "dd")
    assert pair_row("ab", "sl_cai_model", *others)["pair_id"] == pair_id
    different = [
        pair_row("cd", "revisions", first, second),
        pair_row("ab", "revisions", second, first),
        pair_row("ab", "revisions", first, Completion("two!", "length", "bb")),
        pair_row("ab", "revisions", Completion("on", "stop", "aa"), Completion("etwo", "length", "bb")),
    ]
    assert len({pair_id, *(row["pair_id"] for row in different)}) == 5


def test_each_completion_keeps_its_place() -> None:
    row = pair_row("ab", "revisions", Completion("one", "stop", "aa"), Completion("two", "length", "bb"))
    assert (row["completion_0"], row["finish_reason_0"], row["request_id_0"]) == ("one", "stop", "aa")
    assert (row["completion_1"], row["finish_reason_1"], row["request_id_1"]) == ("two", "length", "bb")
    assert row["source"] == "revisions"
