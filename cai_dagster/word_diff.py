"""What changed between two texts, word by word. It knows nothing of how it is shown."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

LONGEST_DIFFED = 20_000  # characters of each text; difflib's time grows with the square of the words


@dataclass(frozen=True)
class Piece:
    """A run of text that both have, or one of them; white space belongs to the word before it."""

    kind: Literal["same", "removed", "added"]
    text: str


def word_diff(before: str, after: str) -> list[Piece]:
    """Pieces that, without the added ones, are `before`, and without the removed ones `after`.

    Texts beyond `LONGEST_DIFFED` characters are not compared: the one is removed, the other added.
    """
    if max(len(before), len(after)) > LONGEST_DIFFED:
        return [Piece("removed", before), Piece("added", after)]
    old, new = _words(before), _words(after)
    pieces: list[Piece] = []
    for tag, old_from, old_to, new_from, new_to in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(Piece("same", "".join(old[old_from:old_to])))
            continue
        if old_to > old_from:
            pieces.append(Piece("removed", "".join(old[old_from:old_to])))
        if new_to > new_from:
            pieces.append(Piece("added", "".join(new[new_from:new_to])))
    return pieces


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*", text) or ([text] if text else [])
