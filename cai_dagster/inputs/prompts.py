"""Prompts: read from the bundled set or the user's files, normalised to messages, deduplicated, split.

A row that cannot be a prompt is returned with its reason, never dropped. It knows no model; how many tokens a prompt
has is asked of the caller.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, cast

from cai_dagster.errors import RowError
from cai_dagster.hashing import ROW_ID_DIGITS, content_hash, unit_interval
from cai_dagster.inputs.decontamination import NO_EVALUATION_SETS, EvaluationSets
from cai_dagster.inputs.files import Expected, source_rows
from cai_dagster.inputs.preference_rows import split_pair
from cai_dagster.inputs.settings import PromptsSettings
from cai_dagster.lake.forgotten_prompts import FORGOTTEN
from cai_dagster.models.messages import Message, Messages

ROLES = ("system", "user", "assistant")
NONE_FORGOTTEN: frozenset[str] = frozenset()
_SPLIT_SALT = "split-395"  # never change it: every prompt would change sides


class BadPromptError(RowError):
    """One row of a source is not a prompt; the message is the reason."""

    code = "bad_prompt"


class ForgottenPromptError(RowError):
    """The prompt is one of those that were removed for good (`cai forget`)."""

    code = FORGOTTEN

    def __init__(self) -> None:
        super().__init__("it was removed for good; cai forget")


@dataclass
class Prompt:
    """A prompt x and every place it was read from."""

    messages: Messages
    category: str | None
    sources: list[str] = field(default_factory=list[str])

    @property
    def id(self) -> str:
        """Hash of the messages."""
        return prompt_id_of(self.messages)


@dataclass(frozen=True)
class RejectedPrompt:
    """A row that is not a prompt."""

    source: str
    reason: str
    row: Mapping[str, Any]


def collect_prompts(
    settings: PromptsSettings,
    count_tokens: Callable[[Messages], int],
    evaluation_sets: EvaluationSets = NO_EVALUATION_SETS,
    forgotten: Set[str] = NONE_FORGOTTEN,
) -> tuple[list[Prompt], list[RejectedPrompt]]:
    """Every prompt of the sources once, in the order of their first appearance, and the rows that are none.

    A row with two completions is a preference pair: its prompt is what they share. A prompt that overlaps with one of
    the evaluation sets is rejected, and so is one whose id is in `forgotten`: without its text.

    Raises SourceFileError for a source that does not exist, has no readable format or has none of the columns.
    """
    prompts: dict[str, Prompt] = {}
    rejected: list[RejectedPrompt] = []
    for source, row, problem in source_rows(settings.sources, _expected(settings)):
        try:
            if problem is not None:
                raise BadPromptError(problem)
            prompt = _prompt(row, settings)
            refuse_forgotten(prompt.id, forgotten)
            known = prompts.get(prompt.id)
            if known is None:
                _refuse_long(prompt.messages, count_tokens, settings.longest_prompt)
                evaluation_sets.refuse(prompt.messages)
                known = prompts[prompt.id] = prompt
            known.sources.append(source)
        except ForgottenPromptError as error:
            rejected.append(RejectedPrompt(source, str(error), {}))
        except RowError as error:
            rejected.append(RejectedPrompt(source, str(error), row))
    return list(prompts.values()), rejected


def refuse_forgotten(prompt_id: str, forgotten: Set[str]) -> None:
    """Raise ForgottenPromptError for a prompt that was removed for good."""
    if prompt_id in forgotten:
        raise ForgottenPromptError


def prompt_id_of(messages: Messages) -> str:
    """Hash of the messages: the same prompt has the same id, whichever file it came from."""
    return content_hash([(message.role, message.content) for message in messages], ROW_ID_DIGITS)


def split_of(prompt_id: str, settings: PromptsSettings) -> str:
    """sft, preference or evaluation: a hash of the id, so a prompt is on the same side in every version."""
    place = unit_interval(_SPLIT_SALT, prompt_id)
    if place < settings.sft_share:
        return "sft"
    return "preference" if place < settings.sft_share + settings.preference_share else "evaluation"


def prompt_row(prompt: Prompt, settings: PromptsSettings) -> dict[str, Any]:
    """A row of the table `prompts`."""
    return {
        "prompt_id": prompt.id,
        "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
        "source": prompt.sources[0],
        "sources": prompt.sources,
        "category": prompt.category,
        "split": split_of(prompt.id, settings),
    }


def _prompt(row: Mapping[str, Any], settings: PromptsSettings) -> Prompt:
    turns = row.get(settings.messages_column)
    if row.get(settings.chosen_column) and row.get(settings.rejected_column):
        turns = split_pair(row, settings).prompt
    elif turns is None or turns == "":
        if settings.prompt_column not in row:
            raise BadPromptError(f"neither {settings.prompt_column!r} nor {settings.messages_column!r} is in the row")
        turns = [{"role": "user", "content": row[settings.prompt_column]}]
    category = row.get(settings.category_column)
    if category is not None and _has_surrogates(str(category)):
        raise BadPromptError(f"{settings.category_column} is not UTF-8")
    return Prompt(prompt_messages(turns), None if category is None else str(category))


def prompt_messages(turns: object) -> Messages:
    """The turns of a prompt as messages.

    Raises BadPromptError where they are no dialogue that ends with the user's turn.
    """
    if not isinstance(turns, list) or not turns:
        raise BadPromptError("messages is not a list of turns")
    messages = tuple(turn_message(turn, number) for number, turn in enumerate(cast("list[object]", turns), 1))
    if messages[-1].role != "user":
        raise BadPromptError(f"the last turn is the {messages[-1].role}'s; a prompt ends with the user's")
    dialogue = messages[1:] if messages[0].role == "system" else messages
    for number, message in enumerate(dialogue):
        if message.role != ("user", "assistant")[number % 2]:
            raise BadPromptError("turns must alternate, the user's first, after at most one system prompt")
    return messages


def turn_message(turn: object, number: int) -> Message:
    """One turn, an object with role and content; `number` counts from 1. Raises BadPromptError for what is none."""
    if not isinstance(turn, Mapping):
        raise BadPromptError(f"turn {number} is not an object with role and content")
    fields = cast("Mapping[str, Any]", turn)
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES:
        raise BadPromptError(f"turn {number} has the role {role!r}; it must be one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise BadPromptError(f"turn {number} has no text")
    if not content.strip():
        raise BadPromptError(f"turn {number} is empty")
    if "\0" in content:
        raise BadPromptError(f"turn {number} has a null byte at character {content.index(chr(0)) + 1}")
    if _has_surrogates(content):
        raise BadPromptError(f"turn {number} is not UTF-8: it has a lone surrogate")
    return Message(role, content)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _refuse_long(messages: Messages, count_tokens: Callable[[Messages], int], longest: int) -> None:
    tokens = count_tokens(messages)
    if tokens > longest:
        raise BadPromptError(f"{tokens} tokens; the longest prompt allowed has {longest} (longest_prompt)")


def _expected(settings: PromptsSettings) -> Expected:
    pair = (settings.chosen_column, settings.rejected_column)
    alternatives = ((settings.prompt_column,), (settings.messages_column,), pair)
    return Expected("prompts", alternatives, settings.prompt_column, settings.messages_column)
