"""Dialogues as people write them, read the same everywhere: prompts, pairs, evaluation sets, benchmarks, `cai score`.

A dialogue is a list of turns; an object that holds one under `messages` or `conversations`; or a text with either, as
JSON or as Python's repr, or with an hh-rlhf transcript. A turn has `role` and `content`, or ShareGPT's `from` and
`value`; roles may have the names of other tools. What a turn has besides, and a message cannot hold, is refused by its
name. It knows no files and no columns.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from cai_dagster.calls.requests import EmptyCompletionError
from cai_dagster.calls.stored_text import is_storable
from cai_dagster.errors import RowError
from cai_dagster.inputs.strict_json import JsonTextError, parsed_json
from cai_dagster.inputs.transcripts import is_transcript, transcript_turns
from cai_dagster.models.messages import Message, Messages
from cai_dagster.models.reasoning import SaidAndThought, UnfinishedThoughtError, answer_in_file

ROLES = ("system", "user", "assistant")
WRAPPERS = ("messages", "conversations", "conversation")
"""The keys under which an object holds the turns of a dialogue."""
_OTHER_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_REASONING = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = ("text", "input_text", "output_text")
# What is known of a turn, and is no part of what was said in it.
_NOTES = frozenset(("id", "turn_id", "message_id", "turn_identifier", "language", "lang", "timestamp", "created_at",
                    "date", "model"))  # fmt: skip
_TURNS = re.compile(r"""\[\s*\{\s*["'](role|content|from|value)["']\s*:|\{\s*["'](messages|conversations?)["']\s*:""")
_KEYS = re.compile(r"""["'](role|from)["']\s*:""")
_LONGEST_REPR = 1_000_000  # characters: Python's parser takes a hundred times the memory of what it reads


class BadDialogueError(RowError):
    """What was read is no dialogue; the message names the turn and what it should be."""

    code = "bad_dialogue"


@dataclass(frozen=True)
class Turn:
    """A turn as it was read. `reasoning` is what the assistant thought before it spoke."""

    role: str
    content: str
    reasoning: str | None = None

    @property
    def message(self) -> Message:
        """The turn as a message: what was said."""
        return Message(self.role, self.content)


def turns_of(value: object, name: str = "messages") -> list[Turn]:
    """The turns in a cell, at least one, in whatever way they are written there; a text may not be plain.

    Raises BadDialogueError with the number of the turn that is none.
    """
    if isinstance(value, str):
        found = _turns_in_text(value)
        if found is None:
            raise BadDialogueError(f"{name} is not a list of turns: it is the text {value[:60]!r}")
        return found
    if isinstance(value, Mapping):
        value = _unwrapped(cast("Mapping[str, object]", value), name)
    if not isinstance(value, Sequence) or not value:
        raise BadDialogueError(f"{name} is not a list of turns")
    return [_turn(turn, number) for number, turn in enumerate(cast("Sequence[object]", value), 1)]


def turns_or_text(value: object, name: str) -> list[Turn]:
    """As `turns_of`; a plain text is one turn of the user's."""
    if isinstance(value, str):
        return _turns_in_text(value) or [_turn({"role": "user", "content": value}, 1)]
    return turns_of(value, name)


def prompt_of(turns: Sequence[Turn]) -> Messages:
    """The turns of a prompt as messages; an empty answer, with which a transcript ends, is no turn.

    Raises BadDialogueError where they do not alternate and end with the user's, and where one has a thought.
    """
    turns = without_empty_answer(turns)
    for number, turn in enumerate(turns, 1):
        _refuse_unfit_text(turn.content, number)
        if turn.reasoning is not None:
            raise BadDialogueError(
                f"turn {number} has what the assistant thought (reasoning_content, or <think>); leave it out, a prompt "
                "holds what was said"
            )
    if not turns or turns[-1].role != "user":
        who = turns[-1].role if turns else "nobody"
        raise BadDialogueError(f"the last turn is the {who}'s; a prompt ends with the user's")
    dialogue = turns[1:] if turns[0].role == "system" else turns
    for number, turn in enumerate(dialogue):
        if turn.role != ("user", "assistant")[number % 2]:
            raise BadDialogueError("turns must alternate, the user's first, after at most one system prompt")
    return tuple(turn.message for turn in turns)


def without_empty_answer(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The turns but for an empty one of the assistant's at their end: a transcript ends where the answer begins."""
    return turns[:-1] if len(turns) > 1 and turns[-1].role == "assistant" and not turns[-1].content.strip() else turns


def answer_of(value: object, name: str) -> SaidAndThought:
    """A completion: a text, or a list of one turn of the assistant's.

    Raises EmptyCompletionError where it has no word but a thought, BadDialogueError where it is something else.
    """
    if isinstance(value, str):
        return answer_in_turn(answered(value, name), name)
    turns = turns_of(value, name)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise BadDialogueError(f"{name} is a text, or a list of one turn of the assistant's")
    return answer_in_turn(turns[0], name)


def answered(text: str, name: str) -> Turn:
    """A text as the assistant's turn. Raises EmptyCompletionError where it is a thought without an end."""
    try:
        answer = answer_in_file(text)
    except UnfinishedThoughtError as error:
        raise EmptyCompletionError(f"{name} has no answer: it is {error}") from error
    return Turn("assistant", answer.text, answer.reasoning)


def answer_in_turn(turn: Turn, name: str) -> SaidAndThought:
    """What the assistant's turn says. Raises EmptyCompletionError where it says nothing."""
    if not turn.content.strip():
        thought = ": it is a thought without an answer" if turn.reasoning is not None else ""
        raise EmptyCompletionError(f"{name} has no word{thought}")
    _refuse_unfit_text(turn.content, 1, name)
    return SaidAndThought(turn.content, turn.reasoning)


def written_as(value: object, turns: Sequence[Turn]) -> str:
    """How a cell holds the turns that were read from it, for people: a report of an import says it."""
    if not isinstance(value, str):
        return "turns"
    if is_transcript(value):
        return "transcript"
    return "text" if [turn.content for turn in turns] == [value] else "turns in a text"


def texts_in(value: object) -> list[str]:
    """Every text in a cell: of a dialogue those of its turns, of anything else each text that is in it."""
    if isinstance(value, str):
        try:
            turns = _turns_in_text(value)
        except RowError:
            turns = None  # it is a text all the same
        return [turn.content for turn in turns] if turns else [value]
    if isinstance(value, Mapping):
        turn = cast("Mapping[str, object]", value)
        if "type" in turn and isinstance(turn.get("text"), str):
            return [str(turn["text"])]
        parts = [turn[name] for name in ("content", "value") if name in turn and ("role" in turn or "from" in turn)]
        return [text for part in parts or turn.values() for text in texts_in(part)]
    if isinstance(value, Sequence):
        return [text for part in cast("Sequence[object]", value) for text in texts_in(part)]
    return []


def _turns_in_text(text: str) -> list[Turn] | None:
    """The dialogue that a text holds, or None where it is a plain text."""
    return turns_of_transcript(text) if is_transcript(text) else turns_in_list(text)


def turns_of_transcript(text: str) -> list[Turn]:
    """The turns of an hh-rlhf transcript. Raises NoTranscriptError for a text that is none."""
    return [
        answered(content, f"turn {number}") if role == "assistant" else Turn(role, content)
        for number, (role, content) in enumerate(transcript_turns(text), 1)
    ]


def turns_in_list(text: str) -> list[Turn] | None:
    """The dialogue that a text holds as JSON or Python's repr, or None where it holds none.

    Raises BadDialogueError for a text that begins as one and cannot be read, or has a turn that is none.
    """
    begins_as_turns = _TURNS.match(text.lstrip()) is not None
    if not begins_as_turns and not (text.lstrip().startswith(("[", "{")) and _KEYS.search(text)):
        return None
    try:
        value = parsed_json(text)
    except JsonTextError as error:
        if begins_as_turns and "stands" in str(error):
            raise BadDialogueError(str(error)) from error
        value = _python_value(text, begins_as_turns)
    return turns_of(value, "the text") if begins_as_turns or _holds_turns(value) else None


def _holds_turns(value: object) -> bool:
    """Whether a value that stood in a text is a dialogue, and not only data of its own."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        return any(_holds_turns(fields.get(key)) for key in WRAPPERS)
    if not isinstance(value, list) or not value:
        return False
    keys = [
        set(cast("Mapping[str, object]", turn)) for turn in cast("list[object]", value) if isinstance(turn, Mapping)
    ]
    return len(keys) == len(cast("list[object]", value)) and all(
        one >= {"role", "content"} or one >= {"from", "value"} for one in keys
    )


def _python_value(text: str, begins_as_turns: bool) -> object:
    """What pandas writes for a cell with a list; None, or BadDialogueError, where it is no Python value either."""
    try:
        return ast.literal_eval(text.strip()) if len(text) <= _LONGEST_REPR else None
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        if not begins_as_turns:
            return None
        raise BadDialogueError(
            "the text looks like a list of turns, and is neither JSON nor Python's repr of one; write it as JSON"
        ) from error


def _unwrapped(value: Mapping[str, object], name: str) -> object:
    """The turns in an object: under one key, or as columns of their parts, as `datasets` keeps a sequence of them."""
    for parts in (("role", "content"), ("from", "value")):
        columns = [value.get(part) for part in parts]
        lists = [cast("list[object]", column) for column in columns if isinstance(column, list)]
        if len(lists) == 2 and len(lists[0]) == len(lists[1]):
            return [dict(zip(parts, turn, strict=True)) for turn in zip(*lists, strict=True)]
    found = [key for key in WRAPPERS if value.get(key)]
    if len(found) != 1:
        raise BadDialogueError(f"{name} is an object without `messages`; a dialogue is a list of turns")
    return value[found[0]]


def _turn(turn: object, number: int) -> Turn:
    """One turn; `number` counts from 1."""
    if not isinstance(turn, Mapping):
        raise BadDialogueError(f"turn {number} is not an object with role and content")
    fields = {name: value for name, value in cast("Mapping[str, Any]", turn).items() if not _is_empty(value)}
    given = cast("Mapping[str, Any]", turn)
    sharegpt = "from" in fields and "role" not in fields
    role, content = (given.get("from"), given.get("value")) if sharegpt else (given.get("role"), given.get("content"))
    role = _OTHER_ROLES.get(str(role), role)
    if role not in ROLES:
        raise BadDialogueError(f"turn {number} has the role {role!r}; it must be one of {', '.join(ROLES)}")
    used = {"from", "value"} if sharegpt else {"role", "content"}
    thoughts = [fields[name] for name in _REASONING if name in fields and role == "assistant"]
    if len(thoughts) > 1 or not all(isinstance(thought, str) for thought in thoughts):
        raise BadDialogueError(
            f"turn {number}: {' and '.join(name for name in _REASONING if name in fields)}: one text"
        )
    _refuse_more(fields, used | (set(_REASONING) if thoughts else set()), f"turn {number}")
    if isinstance(content, list):
        content, thought = _text_of_parts(cast("list[object]", content), number)
        thoughts += [thought] if thought else []
    if not isinstance(content, str):
        raise BadDialogueError(f"turn {number} has no text")
    if role != "assistant":
        _refuse_unfit_text(content, number)
        return Turn(role, content)
    said = answered(content, f"turn {number}")
    return Turn(role, said.content, thoughts[0] if thoughts else said.reasoning)


def _text_of_parts(parts: list[object], number: int) -> tuple[str | None, str | None]:
    """The one text of a content in parts, and a thought beside it."""
    texts: list[str] = []
    thought: str | None = None
    for part in parts:
        fields = cast("Mapping[str, Any]", part) if isinstance(part, Mapping) else dict[str, Any]()
        kind = fields.get("type", "text")
        named = {name: value for name, value in fields.items() if not _is_empty(value)}
        if kind in ("thinking", "reasoning"):
            thought = str(fields.get("thinking") or fields.get("text") or "")
        elif kind not in _TEXT_PARTS:
            raise BadDialogueError(f"turn {number} holds a part of type {kind!r}; only texts can be read")
        elif isinstance(fields.get("text"), str):
            _refuse_more(named, {"type", "text", "annotations", "cache_control"}, f"turn {number}: a part of it")
            texts.append(fields["text"])
        else:
            raise BadDialogueError(f"turn {number} has no text")
    if len(texts) > 1:
        raise BadDialogueError(f"turn {number} has {len(texts)} text parts; join them to one text")
    return (texts[0] if texts else None), thought


def _refuse_more(fields: Mapping[str, Any], used: set[str], place: str) -> None:
    """Refuse what a message cannot hold. Numbers and truth values are notes on a turn, and so are dates and ids."""
    for name in fields.keys() - used - _NOTES:
        if not isinstance(fields[name], bool | int | float):
            raise BadDialogueError(f"{place} has {name!r}, which a message cannot hold; leave it out, or the row")


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | Sequence | Mapping) and not value)


def _refuse_unfit_text(text: str, number: int, place: str = "") -> None:
    place = place or f"turn {number}"
    if not text.strip():
        raise BadDialogueError(f"{place} is empty")
    if "\0" in text:
        raise BadDialogueError(f"{place} has a null byte at character {text.index(chr(0)) + 1}")
    if not is_storable(text):
        raise BadDialogueError(f"{place} is not UTF-8: it has a lone surrogate")
