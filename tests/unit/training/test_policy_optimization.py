"""What a policy is optimized on: pairs and prompts as tokens."""

import json
from typing import Any

import polars as pl
import pytest

from cai_dagster.constitution.constitution import Constitution, Principle
from cai_dagster.models.messages import Message, messages_from_json
from cai_dagster.training.policy_optimization import (
    RewardReading,
    completion_pairs,
    reward_reading,
    scored_dialogues,
    training_prompts,
)
from cai_dagster.training.reward_modelling import conditioned
from cai_dagster.training.supervised import answered_prompts
from tests.scripted_graph import ScriptedChatFormat

FORMAT: Any = ScriptedChatFormat()


def preference_pairs(*texts: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "p_chosen": 0.75,
        }
        for prompt, chosen, rejected in texts
    ]


def tokens(text: str) -> list[int]:
    return [ord(character) for character in text]


def test_a_pair_is_its_prompt_and_two_completions() -> None:
    (made,) = completion_pairs(preference_pairs(("ab", "good", "bad")), FORMAT, 100)
    assert made.prompt_ids == [0, *tokens("ab"), 0]
    assert (made.chosen_ids, made.rejected_ids) == (tokens("good"), tokens("bad"))
    assert made.p_chosen == 0.75


@pytest.mark.parametrize(("max_length", "kept"), [(4, 0), (7, 0), (8, 1), (100, 1)])
def test_pairs_that_are_identical_or_empty_once_cut_are_dropped(max_length: int, kept: int) -> None:
    """The completions begin at token 4 and differ in their fourth."""
    assert len(list(completion_pairs(preference_pairs(("ab", "samA", "samB")), FORMAT, 7))) == 0
    assert len(list(completion_pairs(preference_pairs(("ab", "samA", "samB")), FORMAT, max_length))) == kept


def test_prompts_without_room_for_an_answer_are_left_out() -> None:
    asked = [(Message("user", text),) for text in ("longer", "xy")]
    (made,) = training_prompts(asked, FORMAT, max_length=10, max_tokens=4)
    assert messages_from_json(made.messages) == asked[1]
    assert made.prompt == [0, *tokens("xy"), 0]


def test_a_reward_model_reads_whole_dialogues_as_in_its_training() -> None:
    asked = [(Message("user", "ab"),)]
    assert list(scored_dialogues(asked, ["xyz"], FORMAT, RewardReading(100, None))) == [
        [0, *tokens("ab"), 0, *tokens("xyz")]
    ]
    assert list(scored_dialogues(asked, ["xyz"], FORMAT, RewardReading(5, None))) == [[0, *tokens("ab"), 0, ord("x")]]


def test_a_conditioned_reward_model_reads_one_principle_for_all_answers_to_a_prompt() -> None:
    texts = [f"principle {number}" for number in range(4)]
    principles = tuple(Principle(text.replace(" ", "-"), "c", "r", text) for text in texts)
    record = json.dumps({"settings": {"max_length": 100, "principle_conditioned": True}})
    rows = pl.DataFrame(Constitution("v1", principles).to_rows())
    reading = reward_reading({"record": record}, rows)
    drawn: set[str] = set()
    for number in range(30):
        asked = (Message("user", f"prompt {number}"),)
        first, second = scored_dialogues([asked, asked], ["same", "same"], FORMAT, reading)
        assert first == second
        (principle,) = [text for text in texts if reading.prompt(asked) == conditioned(asked, text)]
        drawn.add(principle)
    assert drawn == set(texts)


def test_a_teachers_answer_is_the_last_turn_of_its_prompts_dialogue() -> None:
    responses = pl.DataFrame({"prompt_id": ["b", "a"], "sample": [0, 0], "completion": ["to b", "to a"]})
    texts = {"a": "x", "b": "y", "c": "z"}
    messages = [[{"role": "user", "content": text}] for text in texts.values()]
    made = answered_prompts(responses, pl.DataFrame({"prompt_id": [*texts], "messages": messages}))
    assert made["messages"].to_list() == [
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "to a"}],
        [{"role": "user", "content": "y"}, {"role": "assistant", "content": "to b"}],
    ]
