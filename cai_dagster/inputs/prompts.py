"""Prompts: read from the bundled set or the user's files, normalised to messages, deduplicated, split.

A row that cannot be a prompt is rejected with its reason, never dropped. It knows no model; how many tokens a prompt
has is asked of the caller.
"""

import json
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from cai_dagster.errors import RowError
from cai_dagster.hashing import ROW_ID_DIGITS, content_hash, unit_interval
from cai_dagster.inputs.cells import category_in
from cai_dagster.inputs.decontamination import NO_EVALUATION_SETS, EvaluationSets
from cai_dagster.inputs.dialogues import WRAPPERS, prompt_of, turns_of, turns_or_text, written_as
from cai_dagster.inputs.files import Expected, source_rows
from cai_dagster.inputs.import_report import ImportReport
from cai_dagster.inputs.preference_formats import PreferenceFormat
from cai_dagster.inputs.preference_rows import JUDGEBENCH, RANKED, layout_of_row, split_pair
from cai_dagster.inputs.settings import LastAnswer, PromptsSettings
from cai_dagster.lake.forgotten_prompts import FORGOTTEN
from cai_dagster.models.messages import Messages, messages_from_json, messages_to_json

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


def read_prompts(
    settings: PromptsSettings,
    count_tokens: Callable[[Messages], int],
    keep: Callable[[Prompt], None],
    reject: Callable[[RejectedPrompt], None],
    evaluation_sets: EvaluationSets = NO_EVALUATION_SETS,
    forgotten: Set[str] = NONE_FORGOTTEN,
    report: ImportReport | None = None,
    scratch: Path | None = None,
) -> None:
    """Keep every prompt of the sources once, in the order of first appearance, and reject the rows that are none.

    A row with two completions is a preference pair: its prompt is what they share. A prompt that overlaps with one of
    the evaluation sets is rejected, and so is one whose id is in `forgotten`: without its text. `report` is told of
    every row. Texts wait in a file in `scratch` until all places of their prompt are known.

    Raises SourceFileError for a source that does not exist, has no readable format or has none of the columns.
    """
    places: dict[str, list[str]] = {}
    report = ImportReport() if report is None else report
    report.columns_read = _columns_of(settings)
    with TemporaryFile("w+", encoding="utf-8", dir=scratch) as texts:
        for row in source_rows(settings.sources, _expected(settings)):
            try:
                if row.problem is not None:
                    raise BadPromptError(row.problem)
                prompt, read_as = _prompt(row.cells, settings)
                prompt_id = prompt.id
                refuse_forgotten(prompt_id, forgotten)
                if prompt_id not in places:
                    _refuse_long(prompt.messages, count_tokens, settings.longest_prompt)
                    evaluation_sets.refuse(prompt.messages)
                    texts.write(json.dumps([prompt_id, messages_to_json(prompt.messages), prompt.category]) + "\n")
                places.setdefault(prompt_id, []).append(row.place)
                report.kept(row, read_as)
            except RowError as error:
                shown = dict[str, Any]() if isinstance(error, ForgottenPromptError) else row.cells
                reject(RejectedPrompt(row.place, str(error), shown))
                report.refused(row, str(error))
        texts.seek(0)
        for prompt_id, messages, category in map(json.loads, texts):
            keep(Prompt(messages_from_json(messages), category, places[prompt_id]))


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


def _prompt(row: Mapping[str, Any], settings: PromptsSettings) -> tuple[Prompt, str]:
    """The prompt of a row, and how it was written there."""
    category = category_in(row, settings.category_column)
    if row.get(settings.chosen_column) and row.get(settings.rejected_column):
        return Prompt(split_pair(row, settings).prompt, category), layout_of_row(row, settings).value
    for column in (settings.messages_column, *WRAPPERS):
        if row.get(column):
            turns = turns_of(row[column], column)
            how = f"{column}: {written_as(row[column], turns)}"
            if settings.last_answer == LastAnswer.leave_out and len(turns) > 1 and turns[-1].role == "assistant":
                turns, how = turns[:-1], f"{how} without its last answer"
            return Prompt(prompt_of(turns), category), how
    if row.get(settings.prompt_column) is not None:
        written = row[settings.prompt_column]
        turns = turns_or_text(written, settings.prompt_column)
        return Prompt(prompt_of(turns), category), f"{settings.prompt_column}: {written_as(written, turns)}"
    layout = layout_of_row(row, settings)
    if layout in (PreferenceFormat.nemo, PreferenceFormat.judgebench):
        return Prompt(split_pair(row, settings).prompt, category), layout.value
    if row.get(settings.messages_column) is not None:
        turns_of(row[settings.messages_column], settings.messages_column)
    raise BadPromptError(f"neither {settings.prompt_column!r} nor {settings.messages_column!r} is in the row")


def _refuse_long(messages: Messages, count_tokens: Callable[[Messages], int], longest: int) -> None:
    tokens = count_tokens(messages)
    if tokens > longest:
        raise BadPromptError(f"{tokens} tokens; the longest prompt allowed has {longest} (longest_prompt)")


def _expected(settings: PromptsSettings) -> Expected:
    pair = (settings.chosen_column, settings.rejected_column)
    turns = dict.fromkeys((settings.messages_column, *WRAPPERS))
    alternatives = ((settings.prompt_column,), *((column,) for column in turns), pair, RANKED, JUDGEBENCH)
    return Expected("prompts", alternatives, settings.prompt_column)


def _columns_of(settings: PromptsSettings) -> tuple[str, ...]:
    """Every column of which something may be read."""
    names = (settings.prompt_column, settings.messages_column, settings.chosen_column, settings.rejected_column)
    return (*names, settings.category_column, *WRAPPERS, *RANKED, *JUDGEBENCH)
