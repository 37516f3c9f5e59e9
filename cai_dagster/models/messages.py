"""The turns of a dialogue. The text of a message is data; `chat_format` turns it into tokens."""

import json
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


def messages_to_json(messages: Messages) -> str:
    """Messages as one line of text, for a file."""
    return json.dumps([(message.role, message.content) for message in messages])


def messages_from_json(text: str) -> Messages:
    """What `messages_to_json` has written."""
    return tuple(Message(role, content) for role, content in json.loads(text))
