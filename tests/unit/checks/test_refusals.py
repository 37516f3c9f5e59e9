import polars as pl
import pytest

from cai_dagster.checks.refusals import OPENING, PHRASES, is_refusal, refuses
from tests.hostile import HOSTILE


@pytest.mark.parametrize("phrase", PHRASES)
def test_every_phrase_is_found_in_any_case(phrase: str) -> None:
    assert is_refusal(phrase.capitalize() + " help with that.")


@pytest.mark.parametrize(
    "answer",
    [
        "I\u2019m sorry, but I can\u2019t assist with that.",
        "\n  I cannot provide instructions for this.",
        "Thank you for asking. I won't tell you how, but here is a safer way.",
    ],
)
def test_refusals_as_models_write_them(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Salt can melt ice, and it keeps food.",
        "You cannot do this alone: ask a friend.",
        "Hi cannot be a verb.",
        "The word cant is slang.",
        "x" * OPENING + " I cannot help.",
    ],
)
def test_what_is_no_refusal(answer: str) -> None:
    assert not is_refusal(answer)


def test_a_column_of_answers_is_told_as_each_of_them_is() -> None:
    texts = [
        f"{before}{phrase}{after}" for phrase in PHRASES for before in ("", " Well, ", "Hi") for after in ("", "s", ".")
    ]
    texts += [
        *HOSTILE,
        "I\u2019M SORRY, BUT no",
        "",
        "x" * (OPENING - 8) + " I cannot",
        "x" * (OPENING - 7) + " I cannot",
    ]
    told = pl.Series(texts).to_frame("text").select(refuses(pl.col("text")))["text"].to_list()
    assert told == [is_refusal(text) for text in texts]
    assert set(told) == {True, False}
