"""Shows text of models and people as text: control characters as escapes, long texts cut."""

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_CELL = 400
_JOINERS = "\u200c\u200d"  # between letters they are spelling (Persian, Hindi), between emoji they make one of them


def printable(text: str, most: int | None = None) -> str:
    """The text with every control character as its escape (but for line breaks), cut after `most` characters.

    ANSI codes, bidirectional marks and the like stay visible as text and change nothing on a terminal or a page.
    """
    return _with_escapes(cut(text, most), "\n")


def readable(text: str, most: int | None = None) -> str:
    """As `printable`, for a page, which shows more as it is: tabs, and joiners where they belong to the spelling."""
    shown = cut(text, most)
    joined = re.sub(f"[{_JOINERS}]", lambda one: one[0] if _joins(shown, one.start()) else _escape(one[0]), shown)
    return _with_escapes(joined, f"\n\t{_JOINERS}")


def cut(text: str, most: int | None) -> str:
    """The text, or its first `most` characters with a sign that there are more."""
    return text if most is None or len(text) <= most else text[:most] + "…"


def first_line(text: str, most: int) -> str:
    """The first line of a text that has a word in it, printable and cut."""
    lines = (line.strip() for line in text.splitlines())
    return printable(next((line for line in lines if line), ""), most)


def escaped(value: object) -> str:
    """A value as one line of Markdown that renders as exactly its text, with control characters as their escapes.

    Every ASCII punctuation mark gets a backslash (CommonMark, section 2.4): none of them can then open anything.
    """
    shown = " ".join(printable(str(value), LONGEST_CELL).split())
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", shown)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the known words that are nearly the given one; empty where none is."""
    near = get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _with_escapes(text: str, kept: str) -> str:
    odd = {character for character in set(text) if not (_is_plain(character) or character in kept)}
    return text.translate({ord(character): _escape(character) for character in odd})


def _is_plain(character: str) -> bool:
    """Whether it steers nothing. To Python every space but one is unprintable: those of other widths are plain too."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _joins(text: str, place: int) -> bool:
    """Whether a joiner stands between letters (with their marks) or emoji; elsewhere, and in rows, it only hides."""
    before, after = text[max(place - 1, 0) : place], text[place + 1 : place + 2]
    return bool(before and after) and _is_joined(before) and _is_joined(after)


def _is_joined(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] in "LM" or category in {"So", "Sk"}
