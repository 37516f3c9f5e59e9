"""Constitutions that others have written, as files of this project: what can be read, and how it becomes principles.

llm-swarm's JSON, the two files of prompts that Anthropic published with Bai et al. 2022, Markdown lists, and plain
text with a principle a line. How a text becomes a principle is in `principles`. Every error names file and place.
"""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast

import yaml
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from cai_dagster.constitution.constitution import (
    Constitution,
    Dialogue,
    Principle,
    Text,
    load_constitution,
    text_of_file,
)
from cai_dagster.constitution.versions import VERSION_PATTERN, ConstitutionError
from cai_dagster.errors import MendableError, RowError
from cai_dagster.inputs.dialogues import turns_of
from cai_dagster.inputs.principles import named, of_comparison, of_principle, slug_of, with_comparison
from cai_dagster.inputs.strict_json import JsonTextError, parsed_json
from cai_dagster.text import printable

FORMATS = (".json", ".md", ".markdown", ".txt")
_DIALOGUE_ROLES = ("user", "assistant") * 3
_BULLET = re.compile(r"\A(?:[-*+•]|\d+[.)])(?:\s+|\Z)")
_ASKS = re.compile(r"(?:Q|Question|User|Human|Customer|Prompt|Me|You|Person)\s*:", re.IGNORECASE)
_ANSWERS = re.compile(r"(?:A|Answer|Assistant|Bot|AI|Response|Model|Reply)\s*:", re.IGNORECASE)
_FIELDS_OF_DIALOGUES = frozenset(
    ("role", "content", "prompt", "response", "question", "answer", "messages", "critique")
)


class ConstitutionImportError(MendableError):
    """A source that cannot be read, or a file that cannot be written; the message says where and why."""


@dataclass(frozen=True)
class FoundConstitution:
    """What the sources say: principles with slugs of their own, few-shot dialogues, and what was left out."""

    title: str
    sources: tuple[str, ...]
    principles: tuple[Principle, ...]
    dialogues: tuple[Dialogue, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """One file's content. Several of its principles may have one slug."""

    principles: list[Principle]
    dialogues: list[Dialogue]
    left_out: list[str]
    title: str | None = None


class _SwarmPrinciple(BaseModel):
    critic: Text
    revision: Text


class _Swarm(BaseModel):
    constitutions: Annotated[list[_SwarmPrinciple], Field(min_length=1)]
    system_chat: list[Any] = []


class _CritiqueRevision(BaseModel):
    prompt: Annotated[list[Text], Field(min_length=1, max_length=1)]
    edit_request: Text


_CRITIQUE_REVISIONS = TypeAdapter(Annotated[dict[str, _CritiqueRevision], Field(min_length=1)])
_COMPARISONS = TypeAdapter(Annotated[list[Text], Field(min_length=1)])


def read_constitution(files: Sequence[Path]) -> FoundConstitution:
    """The principles of all files, in their order. Principles that are the same become one of their summed weight.

    Raises ConstitutionImportError for a file that cannot be read, naming the place in it.
    """
    sources = [_read(file) for file in files]
    return FoundConstitution(
        title=next((source.title for source in sources if source.title), files[0].stem),
        sources=tuple(file.name for file in files),
        principles=named(principle for source in sources for principle in source.principles),
        dialogues=tuple(dialogue for source in sources for dialogue in source.dialogues),
        left_out=tuple(note for source in sources for note in source.left_out),
    )


def write_constitution(
    found: FoundConstitution, file: Path, title: str | None, licence: str, overwrite: bool = False
) -> Constitution:
    """Write a constitution file and read it back as the graph will.

    Raises ConstitutionImportError when the file exists (unless it may be overwritten), has a name that is no version,
    or would be refused.
    """
    if file.suffix != ".yaml" or not VERSION_PATTERN.fullmatch(file.stem):
        raise ConstitutionImportError(
            f"{file}: the name must be VERSION.yaml with a version of the characters a-z 0-9 . _ -; "
            "the version is the partition key"
        )
    if file.exists() and not overwrite:
        raise ConstitutionImportError(f"{file} exists; name another --output, or replace it with --overwrite")
    if not file.parent.is_dir():
        raise ConstitutionImportError(f"{file.parent}: no such folder")
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".import-") as scratch:
        written = Path(scratch) / file.name
        written.write_text(_to_yaml(found, title or found.title, licence), encoding="utf-8")
        try:
            constitution = load_constitution(written)
        except ConstitutionError as error:
            problems = str(error).replace(str(written), str(file))
            raise ConstitutionImportError(f"what was read makes no valid constitution:\n{problems}") from error
        written.replace(file)
    return constitution


def _read(file: Path) -> _Source:
    text = _text_of(file)
    if file.suffix == ".json":
        return _read_json(file, _parse_json(file, text))
    if file.suffix in (".md", ".markdown"):
        return _read_markdown(file, text)
    if file.suffix == ".txt":
        return _read_lines(file, text)
    raise ConstitutionImportError(f"{file}: cannot tell what it is; the name must end in {', '.join(FORMATS)}")


def _text_of(file: Path) -> str:
    try:
        return text_of_file(file)
    except ConstitutionError as error:
        raise ConstitutionImportError(str(error)) from error


def _parse_json(file: Path, text: str) -> Any:
    try:
        return parsed_json(text)
    except JsonTextError as error:
        raise ConstitutionImportError(f"{file}: {error}") from error


def _read_json(file: Path, value: Any) -> _Source:
    if isinstance(value, list):
        return _comparisons(file, value)
    if isinstance(value, dict) and "constitutions" in value:
        return _swarm(file, value)
    if isinstance(value, dict):
        return _critique_revisions(file, value)
    raise ConstitutionImportError(
        f"{file}: {type(value).__name__} at the top; expected llm-swarm's object with `constitutions`, an object of "
        "`prompt` and `edit_request` by name, or a list of texts"
    )


def _swarm(file: Path, value: Any) -> _Source:
    """llm-swarm: `critic` and `revision` of each principle, and few-shot dialogues of six turns."""
    swarm = _checked(file, value, _Swarm.model_validate)
    dialogues: list[Dialogue] = []
    left_out: list[str] = []
    for index, written in enumerate(swarm.system_chat):
        place = f"{file.name}: system_chat[{index}]"
        try:
            turns = turns_of(written, "it")
        except RowError as error:
            left_out.append(f"{place}: {error.reason}")
            continue
        roles = tuple(turn.role for turn in turns)
        if roles == _DIALOGUE_ROLES:
            dialogues.append(Dialogue(*(turn.content for turn in turns)))
        else:
            left_out.append(
                f"{place}: turns of {', '.join(roles)}; a few-shot dialogue is prompt, response, critique request, "
                "critique, revision request, revision"
            )
    principles = [
        with_comparison(slug_of(entry.revision), entry.critic, entry.revision) for entry in swarm.constitutions
    ]
    return _Source(principles, dialogues, left_out)


def _critique_revisions(file: Path, value: Any) -> _Source:
    """CritiqueRevisionInstructions.json: the frame of the paper's few-shot text around each request is taken off."""
    entries = _checked(file, value, _CRITIQUE_REVISIONS.validate_python)
    principles = [
        with_comparison(
            slug_of(name),
            _unframed(file, f"{name}.prompt[0]", entry.prompt[0], "CritiqueRequest:", "Critique:"),
            _unframed(file, f"{name}.edit_request", entry.edit_request, "RevisionRequest:", "Revision:"),
        )
        for name, entry in entries.items()
    ]
    return _Source(principles, [], [])


def _comparisons(file: Path, value: Any) -> _Source:
    """RLMadisonInstructions.json: comparison principles; `Options:` at their end is not part of them."""
    for index, item in enumerate(value):
        if isinstance(item, dict) and _FIELDS_OF_DIALOGUES.intersection(cast("dict[str, Any]", item)):
            raise _dialogue_found(file, f"[{index}]")
    texts = _checked(file, value, _COMPARISONS.validate_python)
    principles: list[Principle] = []
    for index, text in enumerate(texts):
        _refuse_dialogue(file, f"[{index}]", text.splitlines())
        comparison = _unframed(file, f"[{index}]", text, "", "Options:")
        principles.append(of_comparison(comparison))
    return _Source(principles, [], [])


def _read_lines(file: Path, text: str) -> _Source:
    """A principle a line. Empty lines and lines that begin with # are no principles; a bullet is no part of one."""
    principles: list[Principle] = []
    left_out: list[str] = []
    written = [line.strip() for line in text.split("\n")]
    for number, line in enumerate(written, 1):
        principle = _BULLET.sub("", line)
        _refuse_dialogue(file, f"line {number}", [principle, *filter(None, written[number : number + 2])])
        if line and not principle:
            left_out.append(f"{file.name}:{number}: a bullet without a text")
        elif principle and not line.startswith("#"):
            principles.append(of_principle(principle))
    if not principles:
        raise ConstitutionImportError(f"{file}:1: no principle in it; write one a line")
    return _Source(principles, [], left_out)


def _refuse_dialogue(file: Path, place: str, lines: Sequence[str]) -> None:
    """Refuse lines of which one asks and the next answers: few-shot examples are no principles."""
    spoken = [line.strip() for line in lines if line.strip()]
    for line, following in pairwise(spoken):
        if _ASKS.match(line) and _ANSWERS.match(following):
            raise _dialogue_found(file, place)


def _dialogue_found(file: Path, place: str) -> ConstitutionImportError:
    return ConstitutionImportError(
        f"{file}: {place}: this is a dialogue, not a principle; few-shot dialogues go under `dialogues:` of the "
        "YAML file"
    )


def _read_markdown(file: Path, text: str) -> _Source:
    """Each item of an outermost list is a principle, the headings above it (below the title) are its tags."""
    from markdown_it import MarkdownIt

    principles: list[Principle] = []
    left_out: list[str] = []
    headings: dict[int, str] = {}
    depth = 0
    item: list[str] = []
    heading_level = 0
    item_line = 1
    for token in MarkdownIt("commonmark").parse(text):
        if token.type in ("bullet_list_open", "ordered_list_open", "bullet_list_close", "ordered_list_close"):
            depth += token.nesting
        elif token.type == "list_item_close" and depth == 1:
            read = _item(file, item_line, item, headings)
            principles += [read] if read else []
            left_out += [] if read else [f"{file.name}:{item_line}: a bullet without a text"]
            item = []
        elif token.type == "list_item_open" and depth == 1:
            item_line = _line(token)
        elif token.type == "heading_open" and not depth:
            heading_level = int(token.tag[1:])
        elif token.type == "heading_close":
            heading_level = 0
        elif token.type in ("inline", "fence", "code_block", "html_block"):
            shown = _shown(token)
            if depth:
                item.append(shown)
            elif heading_level:
                headings = {level: above for level, above in headings.items() if level < heading_level}
                headings[heading_level] = shown
            else:
                left_out.append(
                    f"{file.name}:{_line(token)}: not in a list, so not a principle: {' '.join(shown.split())}"
                )
    if not principles:
        raise ConstitutionImportError(f"{file}:1: no list in it; write each principle as an item of a list")
    return _Source(principles, [], left_out, headings.get(1))


def _item(file: Path, line: int, texts: list[str], headings: Mapping[int, str]) -> Principle | None:
    """The principle of an item with these blocks, or None where it has no text."""
    _refuse_dialogue(file, f"line {line}", "\n".join(texts).splitlines())
    text = "\n".join(texts).strip()
    tags = tuple(heading for level, heading in sorted(headings.items()) if level > 1)
    return replace(of_principle(text), tags=tags) if text else None


def _line(token: Any) -> int:
    return token.map[0] + 1 if token.map else 1


def _shown(token: Any) -> str:
    """The text of a Markdown block without its marks."""
    if token.children is None:
        return str(token.content).strip()
    breaks = {"softbreak": " ", "hardbreak": "\n"}
    return "".join(str(breaks.get(child.type, child.content)) for child in token.children).strip()


def _to_yaml(found: FoundConstitution, title: str, licence: str) -> str:
    """The file's text. What was left out stands in it as comments."""
    notes = [f"# Left out: {' '.join(printable(note).split())}" for note in found.left_out]
    description = (
        f"Imported from {', '.join(found.sources)}. A request that the source does not have is made from a template."
    )
    value = {
        "title": title,
        "description": description,
        "licence": licence,
        "dialogues": [asdict(dialogue) for dialogue in found.dialogues],
        "principles": [{**asdict(principle), "tags": list(principle.tags)} for principle in found.principles],
    }
    written = yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=100)
    return "\n".join([*notes, written])


def _unframed(file: Path, place: str, text: str, opening: str, closing: str) -> str:
    inner = text.strip().removeprefix(opening).removesuffix(closing).strip()
    if not inner:
        raise ConstitutionImportError(f"{file}: {place}: nothing is left of {text!r} without its frame")
    return inner


def _checked(file: Path, value: Any, validate: Callable[[Any], Any]) -> Any:
    try:
        return validate(value)
    except ValidationError as error:
        problems = [f"{file}: {_place(problem['loc'])}: {problem['msg']}" for problem in error.errors()]
        raise ConstitutionImportError("\n".join(problems)) from error


def _place(location: tuple[int | str, ...]) -> str:
    """`constitutions[3].critic`"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".") or "the file"
