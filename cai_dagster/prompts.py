"""Prompts: read from the bundled set or the user's files, normalised to messages, deduplicated, split.

A row that cannot be a prompt is returned with its reason, never dropped. It knows no model; how many tokens a prompt
has is asked of the caller.
"""

# pyright: reportMissingTypeStubs=false

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

from cai_dagster.chat_format import keep_to_this_machine
from cai_dagster.errors import MendableError
from cai_dagster.hashing import ROW_ID_DIGITS, content_hash, unit_interval
from cai_dagster.home import PROJECT
from cai_dagster.requests import Message, Messages, RowError
from cai_dagster.settings import PromptsSettings

FORMATS = (".jsonl", ".csv", ".parquet", ".txt")
ROLES = ("system", "user", "assistant")
_LONGEST_FIELD = 2**30
_SPLIT_SALT = "split-395"  # never change it: every prompt would change sides
_MORE_CELLS = "cells beyond the header"

_FileRow = tuple[int, Mapping[str, Any], str | None]  # line, row, what is wrong with it
_SourceRow = tuple[str, Mapping[str, Any], str | None]


class PromptSourceError(MendableError):
    """A file of prompts cannot be read at all; the message says which, why and what would do."""


class BadPromptError(RowError):
    """One row of a source is not a prompt; the message is the reason."""

    code = "bad_prompt"


@dataclass
class Prompt:
    """A prompt x and every place it was read from."""

    messages: Messages
    category: str | None
    sources: list[str] = field(default_factory=list[str])

    @property
    def id(self) -> str:
        """Hash of the messages."""
        return content_hash([(message.role, message.content) for message in self.messages], ROW_ID_DIGITS)


@dataclass(frozen=True)
class RejectedPrompt:
    """A row that is not a prompt."""

    source: str
    reason: str
    row: Mapping[str, Any]


def collect_prompts(
    settings: PromptsSettings, count_tokens: Callable[[Messages], int]
) -> tuple[list[Prompt], list[RejectedPrompt]]:
    """Every prompt of the sources once, in the order of their first appearance, and the rows that are none.

    Raises PromptSourceError for a source that does not exist, has no readable format or has none of the columns.
    """
    prompts: dict[str, Prompt] = {}
    rejected: list[RejectedPrompt] = []
    for source, row, problem in _rows(settings):
        try:
            if problem is not None:
                raise BadPromptError(problem)
            prompt = _prompt(row, settings)
            known = prompts.get(prompt.id)
            if known is None:
                _refuse_long(prompt.messages, count_tokens, settings.longest_prompt)
                known = prompts[prompt.id] = prompt
            known.sources.append(source)
        except RowError as error:
            rejected.append(RejectedPrompt(source, str(error), row))
    return list(prompts.values()), rejected


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
    if turns is None or turns == "":
        if settings.prompt_column not in row:
            raise BadPromptError(f"neither {settings.prompt_column!r} nor {settings.messages_column!r} is in the row")
        turns = [{"role": "user", "content": row[settings.prompt_column]}]
    category = row.get(settings.category_column)
    if category is not None and _has_surrogates(str(category)):
        raise BadPromptError(f"{settings.category_column} is not UTF-8")
    return Prompt(_messages(turns), None if category is None else str(category))


def _messages(turns: object) -> Messages:
    if not isinstance(turns, list) or not turns:
        raise BadPromptError("messages is not a list of turns")
    messages = tuple(_message(turn, number) for number, turn in enumerate(cast("list[object]", turns), 1))
    if messages[-1].role != "user":
        raise BadPromptError(f"the last turn is the {messages[-1].role}'s; a prompt ends with the user's")
    dialogue = messages[1:] if messages[0].role == "system" else messages
    for number, message in enumerate(dialogue):
        if message.role != ("user", "assistant")[number % 2]:
            raise BadPromptError("turns must alternate, the user's first, after at most one system prompt")
    return messages


def _message(turn: object, number: int) -> Message:
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


def _rows(settings: PromptsSettings) -> Iterator[_SourceRow]:
    """Every row of every source with `name:line`."""
    for source in settings.sources:
        path = PROJECT / Path(source).expanduser()
        if not path.exists():
            raise PromptSourceError(f"prompts: {path} does not exist; a source is a file or a folder on this machine")
        if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
            yield from _dataset_rows(path, settings)
            continue
        files = (
            sorted(file for file in path.iterdir() if file.suffix in FORMATS and file.is_file())
            if path.is_dir()
            else [path]
        )
        if not files:
            raise PromptSourceError(f"prompts: {path} has no {', '.join(FORMATS)} file and is no dataset folder")
        for file in files:
            yield from _file_rows(file, settings)


def _file_rows(file: Path, settings: PromptsSettings) -> Iterator[_SourceRow]:
    readers = {".jsonl": _jsonl_rows, ".txt": _text_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(file.suffix)
    if reader is None:
        raise PromptSourceError(f"prompts: {file} is none of {', '.join(FORMATS)}")
    for number, row, problem in reader(file, settings):
        yield f"{file.name}:{number}", row, problem


def _jsonl_rows(file: Path, _settings: PromptsSettings) -> Iterator[_FileRow]:
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row, problem = _parse_json(line)
            if problem is None and not isinstance(row, dict):
                problem = "the line is not a JSON object"
            if problem is None:
                yield number, cast("dict[str, Any]", row), None
            else:
                yield number, {"line": line}, problem


def _text_rows(file: Path, settings: PromptsSettings) -> Iterator[_FileRow]:
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, {settings.prompt_column: line.rstrip("\r\n")}, None


def _csv_rows(file: Path, settings: PromptsSettings) -> Iterator[_FileRow]:
    csv.field_size_limit(_LONGEST_FIELD)
    with _open(file) as lines:
        reader = csv.DictReader(lines, restkey=_MORE_CELLS, strict=True)
        _require_column(file, reader.fieldnames or (), settings)
        try:
            for row in reader:
                turns = row.get(settings.messages_column)
                if turns:
                    parsed, problem = _parse_json(turns)
                    yield reader.line_num, {**row, settings.messages_column: parsed or turns}, problem
                else:
                    yield reader.line_num, row, None
        except csv.Error as error:
            raise PromptSourceError(f"prompts: {file}:{reader.line_num}: {error}") from error


def _parquet_rows(file: Path, settings: PromptsSettings) -> Iterator[_FileRow]:
    import polars as pl

    try:
        frame = pl.read_parquet(file)
    except pl.exceptions.PolarsError as error:
        raise PromptSourceError(f"prompts: {file} is not a readable Parquet file: {error}") from error
    _require_column(file, frame.columns, settings)
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        yield number, row, None


def _dataset_rows(folder: Path, settings: PromptsSettings) -> Iterator[_SourceRow]:
    """Rows of what `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    keep_to_this_machine()
    import datasets

    library: Any = datasets
    try:
        loaded = library.load_from_disk(str(folder))
    except (OSError, ValueError, LookupError) as error:
        raise PromptSourceError(f"prompts: {folder} is not a readable dataset folder: {error}") from error
    splits: dict[str, Any] = dict(loaded) if isinstance(loaded, library.DatasetDict) else {folder.name: loaded}
    for name, split in splits.items():
        _require_column(folder, split.column_names, settings)
        for number, row in enumerate(split, 1):
            yield f"{name}:{number}", row, None


def _parse_json(text: str) -> tuple[Any, str | None]:
    """The value, or what is wrong with it: not JSON, nested too deeply, a number of thousands of digits."""
    try:
        return json.loads(text), None
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"


def _require_column(file: Path, columns: Iterable[str], settings: PromptsSettings) -> None:
    names = list(columns)
    if settings.prompt_column not in names and settings.messages_column not in names:
        raise PromptSourceError(
            f"prompts: {file} has neither the column {settings.prompt_column!r} nor {settings.messages_column!r}; "
            f"it has {names}. Set prompt_column or messages_column."
        )


def _open(file: Path) -> TextIO:
    """UTF-8 text; bytes that are none become lone surrogates, by which their row is recognised and rejected."""
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n" if file.suffix != ".csv" else "")
