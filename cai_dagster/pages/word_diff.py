"""What changed between two texts, word by word. It knows nothing of how it is shown."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

LONGEST_DIFFED = 20_000  # characters of each text
MOST_PLACES = 20_000  # see `_places`; prose of 2,400 characters that does not repeat itself has half of it at most


@dataclass(frozen=True)
class Piece:
    """A run of text that both have, or one of them; white space belongs to the word before it."""

    kind: Literal["same", "removed", "added"]
    text: str


def word_diff(before: str, after: str) -> list[Piece]:
    """Pieces that, without the added ones, are `before`, and without the removed ones `after`.

    Texts beyond `LONGEST_DIFFED` characters are not compared: the one is removed, the other added. In texts that go
    round in circles, the words that do so are compared only where they stand beside others.
    """
    if max(len(before), len(after)) > LONGEST_DIFFED:
        return [Piece("removed", before), Piece("added", after)]
    old, new = _words(before), _words(after)
    if sum(_places(old, new).values()) <= MOST_PLACES:
        return list(_compared(old, new))
    head = _shared(old, new)
    tail = _shared(old[head:][::-1], new[head:][::-1])
    middle = _compared(old[head : len(old) - tail], new[head : len(new) - tail])
    return [*_pieces("same", old[:head]), *middle, *_pieces("same", old[len(old) - tail :])]


def _compared(old: Sequence[str], new: Sequence[str]) -> Iterator[Piece]:
    repeated = _repeated(old, new)
    matcher = SequenceMatcher(repeated.__contains__, old, new, autojunk=False)
    for tag, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if tag == "equal":
            yield from _pieces("same", old[old_from:old_to])
        else:
            yield from _pieces("removed", old[old_from:old_to])
            yield from _pieces("added", new[new_from:new_to])


def _repeated(old: Sequence[str], new: Sequence[str]) -> set[str]:
    """The words that a match does not begin with, so that there are few enough places to begin."""
    places = _places(old, new)
    total = sum(places.values())
    left_out: set[str] = set()
    for word, count in places.most_common():
        if total <= MOST_PLACES:
            break
        left_out.add(word)
        total -= count
    return left_out


def _places(old: Sequence[str], new: Sequence[str]) -> Counter[str]:
    """For each word, at how many pairs of places both texts have it.

    difflib looks at all of them for every run of equal words that it finds: for `ha ha ha …` that takes minutes.
    """
    here, there = Counter(old), Counter(new)
    return Counter({word: count * there[word] for word, count in here.items() if word in there})


def _shared(old: Sequence[str], new: Sequence[str]) -> int:
    """How many words both begin with."""
    count = 0
    while count < min(len(old), len(new)) and old[count] == new[count]:
        count += 1
    return count


def _pieces(kind: Literal["same", "removed", "added"], words: Sequence[str]) -> list[Piece]:
    return [Piece(kind, "".join(words))] if words else []


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*", text) or ([text] if text else [])
