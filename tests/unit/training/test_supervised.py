from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

from cai_dagster.inputs.settings import Split
from cai_dagster.models.messages import Message, Messages
from cai_dagster.tables.registry import TABLES
from cai_dagster.training.settings import TrainedRounds
from cai_dagster.training.supervised import TokenRow, dialogues_of, supervised_examples, token_rows


class CharacterFormat:
    """A token for each character, and one before each turn."""

    def dialogue_ids(self, messages: Messages) -> list[int]:
        return [token for message in messages for token in (0, *map(ord, message.content))]

    def completion_start(self, messages: Messages) -> int:
        return len(self.dialogue_ids(messages[:-1])) + 1


FORMAT: Any = CharacterFormat()


def prompts(**splits: str) -> pl.DataFrame:
    rows = [
        {
            "prompt_id": prompt_id,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"prompt {prompt_id}"}],
            "source": "f:1",
            "sources": ["f:1"],
            "category": None,
            "split": split,
        }
        for prompt_id, split in splits.items()
    ]
    return pl.DataFrame(rows, schema=TABLES["prompts"].schema)


def revisions(*places: tuple[str, int, int]) -> pl.DataFrame:
    rows = [
        {"prompt_id": prompt_id, "sample": sample, "round": number, "revision": f"revision {prompt_id}{sample}{number}"}
        for prompt_id, sample, number in places
    ]
    schema = {"prompt_id": pl.String, "sample": pl.Int64, "round": pl.Int64, "revision": pl.String}
    return pl.DataFrame(rows, schema=schema)


PROMPTS = prompts(a="sft", b="preference", c="evaluation", d="sft")
REVISIONS = revisions(*((prompt_id, sample, number) for prompt_id in "dabc" for sample in (1, 0) for number in (2, 1)))


def places(examples: pl.DataFrame) -> list[tuple[str, int, int]]:
    return list(examples.select("prompt_id", "sample", "round").iter_rows())


def last_turn(row: Mapping[str, Any]) -> dict[str, str]:
    return row["messages"][-1]


@pytest.mark.parametrize(
    ("split", "expected"), [(Split.sft, "ad"), (Split.preference, "b"), (Split.evaluation, "c")], ids=str
)
def test_only_prompts_of_the_split_become_examples(split: Split, expected: str) -> None:
    examples = supervised_examples(REVISIONS, PROMPTS, split, TrainedRounds.all)
    assert places(examples) == [(one, sample, number) for one in expected for sample in (0, 1) for number in (1, 2)]


def test_final_keeps_the_last_round_of_each_prompt_and_sample() -> None:
    unequal = revisions(("a", 0, 1), ("a", 0, 2), ("a", 0, 3), ("a", 1, 1), ("d", 0, 2), ("d", 0, 1), ("b", 0, 9))
    final = supervised_examples(unequal, PROMPTS, Split.sft, TrainedRounds.final)
    assert places(final) == [("a", 0, 3), ("a", 1, 1), ("d", 0, 2)]
    everything = supervised_examples(unequal, PROMPTS, Split.sft, TrainedRounds.all)
    assert len(places(everything)) == 6


def test_an_example_is_the_prompt_and_its_own_revision() -> None:
    for row in supervised_examples(REVISIONS, PROMPTS, Split.sft, TrainedRounds.all).iter_rows(named=True):
        revision = f"revision {row['prompt_id']}{row['sample']}{row['round']}"
        assert row["messages"] == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": f"prompt {row['prompt_id']}"},
            {"role": "assistant", "content": revision},
        ]


def test_examples_fit_their_table_also_when_there_are_none() -> None:
    for split_prompts in (PROMPTS, prompts(a="evaluation")):
        examples = supervised_examples(REVISIONS, split_prompts, Split.sft, TrainedRounds.final)
        schema = {name: dtype for name, dtype in TABLES["sft_dataset"].schema.items() if name != "constitution_version"}
        assert dict(examples.schema) == schema


def test_examples_come_back_as_dialogues() -> None:
    examples = supervised_examples(REVISIONS, PROMPTS, Split.preference, TrainedRounds.final)
    assert next(dialogues_of(examples.iter_rows(named=True))) == (
        Message("system", "be brief"),
        Message("user", "prompt b"),
        Message("assistant", "revision b02"),
    )


def dialogue(question: str, answer: str) -> Messages:
    return (Message("user", question), Message("assistant", answer))


def test_a_token_row_learns_from_the_completion_alone() -> None:
    (row,) = token_rows([dialogue("abc", "xy")], FORMAT, 100)
    assert row == TokenRow.of([0, *map(ord, "abc"), 0, *map(ord, "xy")], 5)
    assert row.completion_mask == [0, 0, 0, 0, 0, 1, 1]


def test_a_long_dialogue_is_cut_at_its_end() -> None:
    (row,) = token_rows([dialogue("abc", "x" * 50)], FORMAT, 8)
    assert row.input_ids == [0, *map(ord, "abc"), 0, *map(ord, "xxx")]
    assert sum(row.completion_mask) == 3


@pytest.mark.parametrize(("max_length", "kept"), [(4, 0), (5, 0), (6, 1)])
def test_a_row_whose_completion_is_cut_away_is_dropped(max_length: int, kept: int) -> None:
    """The completion begins at token 5: of five tokens none is left to learn, of six one."""
    rows = list(token_rows([dialogue("abc", "xy"), dialogue("", "x")], FORMAT, max_length))
    assert len(rows) == 1 + kept
    assert rows[-1] == TokenRow.of([0, 0, ord("x")], 2)
    assert all(sum(row.completion_mask) > 0 for row in rows)


def test_a_row_without_a_completion_is_dropped() -> None:
    assert list(token_rows([dialogue("abc", "")], FORMAT, 100)) == []
