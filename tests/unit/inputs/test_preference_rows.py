"""Rows of preference data sets: the prompt is what both share, and what is no pair says why."""

from typing import Any

import pytest

from cai_dagster.errors import RowError
from cai_dagster.inputs.preference_formats import PreferenceFormat
from cai_dagster.inputs.preference_rows import split_pair
from cai_dagster.models.messages import to_messages
from cai_dagster.settings import active_settings

COLUMNS = active_settings().human_preferences
USER, REPLY = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}
TEXTS = {"chosen": "good", "rejected": "bad"}
SECOND = {"role": "user", "content": "Why?"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def transcript(*turns: str) -> str:
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[number % 2]}: {turn}" for number, turn in enumerate(turns))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"chosen": transcript("Hi?", "good"), "rejected": transcript("Hi?", "bad")}, [USER]),
        (
            {
                "chosen": transcript("Hi?", "Hello.", "Why?", "good"),
                "rejected": transcript("Hi?", "Hello.", "Why?", "bad"),
            },
            [USER, REPLY, SECOND],
        ),
        ({"prompt": "Hi?", "chosen": "good", "rejected": "bad"}, [USER]),
        ({"prompt": "Hi?", "chosen": [said("good")], "rejected": [said("bad")]}, [USER]),
        ({"prompt": [USER], "chosen": [said("good")], "rejected": [said("bad")]}, [USER]),
        ({"prompt": [USER], "chosen": "good", "rejected": "bad"}, [USER]),
        ({"chosen": [USER, said("good")], "rejected": [USER, said("bad")]}, [USER]),
        ({"chosen": "Hi? good", "rejected": "Hi? bad"}, [USER]),
        (
            {"prompt": "Hi?", "prompt_id": "7", "chosen": [USER, said("good")], "rejected": [USER, said("bad")],
             "messages": [USER, said("good")], "score_chosen": 8.0, "score_rejected": 4.5},
            [USER],
        ),
        ({"prompt": "Hi?", "chosen": "good", "rejected": "bad", "subset": "chat", "id": 3}, [USER]),
        ({"prompt": transcript("Hi?", "Hello.", "Why?", ""), **TEXTS}, [USER, REPLY, SECOND]),
    ],
    ids=[
        "hh_rlhf", "hh_rlhf with more turns", "explicit texts", "explicit messages", "prompt as messages",
        "completions as texts", "implicit messages", "implicit texts", "ultrafeedback", "rewardbench",
        "prompt as transcript",
    ],
)  # fmt: skip
def test_every_layout_is_recognised(row: dict[str, Any], prompt: list[dict[str, str]]) -> None:
    pair = split_pair(row, COLUMNS)
    assert (pair.prompt, pair.chosen, pair.rejected) == (to_messages(prompt), "good", "bad")


def test_columns_may_have_any_name() -> None:
    columns = COLUMNS.model_copy(update={"chosen_column": "text_correct", "rejected_column": "text_incorrect"})
    row = {"text_correct": transcript("Hi?", "good"), "text_incorrect": transcript("Hi?", "bad")}
    assert split_pair(row, columns).chosen == "good"


def test_a_named_layout_is_not_guessed() -> None:
    row = {"prompt": "Hi?", "chosen": "good", "rejected": "bad"}
    with pytest.raises(RowError, match=r"bad_pair: .*no transcript"):
        split_pair(row, COLUMNS, PreferenceFormat.hh_rlhf)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi?", "chosen": "good"}, "bad_pair: there is no 'rejected' in the row"),
        ({"prompt": "Hi?", "chosen": "same", "rejected": "same"}, "identical_completions"),
        ({"prompt": "Hi?", "chosen": "same ", "rejected": "same"}, "identical_completions"),
        ({"prompt": "Hi?", "chosen": "good", "rejected": " \n"}, "empty_completion: the rejected completion"),
        ({"prompt": "Hi?", "chosen": "good", "rejected": 7}, "bad_pair"),
        ({"prompt": 3, "chosen": "good", "rejected": "bad"}, "bad_pair: prompt is not a list of turns"),
        ({"prompt": "Hi?", "chosen": ["good"], "rejected": [[]]}, "bad_pair"),
        ({"prompt": "Hi?", "chosen": ["good"], "rejected": []}, "bad_pair: a row needs a chosen completion"),
        ({"chosen": "good", "rejected": "bad"}, "different_prompts: the two texts share no beginning"),
        (
            {"chosen": transcript("Hi?", "good", "Why?"), "rejected": transcript("Hi?", "bad")},
            "bad_pair: the chosen conversation does not end with the assistant's turn",
        ),
        (
            {"chosen": transcript("Hi?", "A", "Why?", "good"), "rejected": transcript("Hi?", "B", "Why?", "bad")},
            "different_prompts: the conversations have 4 and 4 turns and differ from turn 2 on",
        ),
        (
            {"chosen": transcript("Hi?", "A", "Why?", "good"), "rejected": transcript("Hi?", "bad")},
            "different_prompts: the conversations have 4 and 2 turns and differ from turn 2 on",
        ),
        (
            {"chosen": transcript("Hi?", "good"), "rejected": transcript("Hi?", "")},
            "empty_completion: the rejected completion",
        ),
    ],
)
def test_what_is_no_pair_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        split_pair(row, COLUMNS)
    assert str(caught.value).startswith(reason)
