"""A word diff loses nothing and marks only what changed."""

import random
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

import pytest

from cai_dagster.pages import word_diff as module
from cai_dagster.pages.word_diff import LONGEST_DIFFED, Piece, word_diff
from cai_dagster.project import PROJECT
from tests.hostile import HOSTILE, LOOPING

MOST_STEPS = 2_000_000  # a fraction of a second


def test_an_edited_word_is_removed_and_added() -> None:
    assert word_diff("be kind to all", "be fair to all") == [
        Piece("same", "be "),
        Piece("removed", "kind "),
        Piece("added", "fair "),
        Piece("same", "to all"),
    ]


@pytest.mark.parametrize("before", [*HOSTILE, "", " ", "a b c", *(before for before, _ in LOOPING)])
@pytest.mark.parametrize("after", [HOSTILE[0], "", "\n", "a c", *(after for _, after in LOOPING)])
def test_both_texts_can_be_read_from_the_pieces(before: str, after: str) -> None:
    pieces = word_diff(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after


def test_a_very_long_text_is_replaced_as_a_whole() -> None:
    long = "word " * LONGEST_DIFFED
    assert word_diff(long, "short") == [Piece("removed", long), Piece("added", "short")]


class CountedPlaces(list[int]):
    """Where a word stands; it counts how often one looks."""

    steps = 0

    def __iter__(self) -> Iterator[int]:
        for place in super().__iter__():
            CountedPlaces.steps += 1
            assert CountedPlaces.steps < MOST_STEPS
            yield place


class CountedMatcher(SequenceMatcher[str]):
    """difflib's, whose work is counted."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        places: dict[str, list[int]] = self.b2j  # type: ignore
        self.b2j = {word: CountedPlaces(where) for word, where in places.items()}


def shuffled(words: Sequence[str], count: int) -> tuple[str, str]:
    drawn = random.Random(0)
    one, other = (" ".join(drawn.choice(words) for _ in range(count)) for _ in range(2))
    return one, other


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *LOOPING,
        shuffled("ab", 2_000),
        shuffled("abcdefghij", 2_000),
        shuffled([chr(n) for n in range(200, 240)], 2_000),
    ],
)
def test_texts_that_go_round_in_circles_are_compared_soon(
    monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    monkeypatch.setattr(CountedPlaces, "steps", 0)
    monkeypatch.setattr(module, "SequenceMatcher", CountedMatcher)
    pieces = word_diff(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after


def test_what_both_of_them_begin_and_end_with_is_kept() -> None:
    before, after = ("begin " + f"ha {middle} " * 400 + "end" for middle in ("ho", "hi"))
    pieces = word_diff(before, after)
    assert pieces[0] == Piece("same", "begin ha ")
    assert pieces[-1] == Piece("same", "end")


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_texts_are_compared_as_difflib_does(seed: int) -> None:
    drawn = random.Random(seed)
    words = (PROJECT / "README.md").read_text().split()[seed * 100 :][:700]
    edited = [word for word in words for word in ([word] if drawn.random() < 0.9 else [drawn.choice(words), word])]
    before, after = " ".join(words), " ".join(edited)
    ours = "".join(piece.text for piece in word_diff(before, after) if piece.kind == "same")
    old, new = ([f"{word} " for word in one[:-1]] + one[-1:] for one in (words, edited))
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    assert ours == "".join("".join(old[block.a : block.a + block.size]) for block in blocks)
