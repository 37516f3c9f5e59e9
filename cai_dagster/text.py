"""Text for people: prompts and completions are data, wherever they are shown."""


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
