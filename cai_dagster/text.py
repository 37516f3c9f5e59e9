"""Text for people: prompts and completions are data, wherever they are shown."""

import re

LONGEST_CELL = 400


def printable(text: str, most: int | None = None) -> str:
    """The text with every control character as its escape (but for line breaks), cut after `most` characters.

    ANSI codes, bidirectional marks and the like stay visible as text and change nothing on a terminal or a page.
    """
    if most is not None and len(text) > most:
        text = text[:most] + "…"
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def escaped(value: object) -> str:
    """A value as one line of Markdown that renders as exactly its text, with control characters as their escapes.

    Every ASCII punctuation mark gets a backslash (CommonMark, section 2.4): none of them can then open anything.
    """
    shown = " ".join(printable(str(value), LONGEST_CELL).split())
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", shown)
