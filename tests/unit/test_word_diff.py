"""A word diff loses nothing and marks only what changed."""

import pytest

from cai_dagster.word_diff import LONGEST_DIFFED, Piece, word_diff
from tests.hostile import HOSTILE


def test_an_edited_word_is_removed_and_added() -> None:
    assert word_diff("be kind to all", "be fair to all") == [
        Piece("same", "be "),
        Piece("removed", "kind "),
        Piece("added", "fair "),
        Piece("same", "to all"),
    ]


@pytest.mark.parametrize("before", [*HOSTILE, "", " ", "a b c"])
@pytest.mark.parametrize("after", [HOSTILE[0], "", "\n", "a c"])
def test_both_texts_can_be_read_from_the_pieces(before: str, after: str) -> None:
    pieces = word_diff(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after


def test_a_very_long_text_is_replaced_as_a_whole() -> None:
    long = "word " * LONGEST_DIFFED
    assert word_diff(long, "short") == [Piece("removed", long), Piece("added", "short")]
