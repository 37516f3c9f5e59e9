"""The turns of a dialogue. The text of a message is data; `chat_format` turns it into tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue."""

    role: str
    content: str


Messages = tuple[Message, ...]


def to_messages(turns: Sequence[Mapping[str, str]]) -> Messages:
    """Messages from rows of a `messages` column."""
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)
