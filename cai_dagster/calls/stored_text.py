"""How a text is kept in a database that cannot hold every text.

A lone surrogate has no UTF-8, and PostgreSQL has no null byte. It is kept as a JSON string in ASCII, and marked.
"""

import json


def is_storable(text: str) -> bool:
    """Whether a text is valid Unicode: whether it can be written to a table."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def stored(text: str) -> tuple[str, bool]:
    """The text as it is kept, and whether it is escaped."""
    if "\x00" not in text and is_storable(text):
        return text, False
    return json.dumps(text), True


def restored(text: str, escaped: bool) -> str:
    """The text that was stored."""
    return json.loads(text) if escaped else text
