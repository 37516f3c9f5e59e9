"""Constitutions: their YAML files, their principles, and how a principle is drawn for a prompt.

It knows no model, no table store and no Dagster. Every error names the file, the line and the field.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from cai_dagster.constitution.versions import ConstitutionError, constitution_versions
from cai_dagster.hashing import ROW_ID_DIGITS, content_hash, unit_intervals
from cai_dagster.text import did_you_mean

LARGEST_FILE = 1_000_000  # bytes; sixteen principles are about 10 kB
DEEPEST_NESTING = 8
LONGEST_QUOTE = 80  # characters of the file in a message
MOST_PROBLEMS = 100  # named at once

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, strict=True)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _DialogueEntry(_Entry):
    prompt: Text
    response: Text
    critique_request: Text
    critique: Text
    revision_request: Text
    revision: Text


class _ComparisonEntry(_Entry):
    prompt: Text
    response_a: Text
    response_b: Text
    comparison_request: Text
    better: Literal["A", "B"]
    rationale: Text | None = None
    score_a: Annotated[int, Field(ge=1, le=10, strict=True)] | None = None
    score_b: Annotated[int, Field(ge=1, le=10, strict=True)] | None = None

    @model_validator(mode="after")
    def _scores_agree(self) -> "_ComparisonEntry":
        if (self.score_a is None) != (self.score_b is None):
            raise ValueError("score_a and score_b belong together: give both or neither")
        if self.score_a is not None and self.score_b is not None:
            higher = self.score_a > self.score_b if self.better == "A" else self.score_b > self.score_a
            if not higher:
                raise ValueError(
                    f"the scores {self.score_a} and {self.score_b} do not say that {self.better} is better"
                )
        return self


class _PrincipleEntry(_Entry):
    slug: Annotated[str, StringConstraints(strict=True, pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
    critique_request: Text
    revision_request: Text
    comparison_request: Text
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False, strict=True)] = 1.0
    tags: list[Text] = []


class _ConstitutionEntry(_Entry):
    based_on: Text | None = None
    title: Text | None = None
    description: Text | None = None
    licence: Text | None = None
    dialogues: list[_DialogueEntry] = []
    comparisons: list[_ComparisonEntry] = []
    principles: Annotated[list[_PrincipleEntry], Field(min_length=1)]


@dataclass(frozen=True)
class Dialogue:
    """One few-shot example of a critique and a revision, shown before the real one."""

    prompt: str
    response: str
    critique_request: str
    critique: str
    revision_request: str
    revision: str


@dataclass(frozen=True)
class Comparison:
    """One few-shot example of a judgement, shown before the real one.

    A method shows the examples that have what it asks for: the one that reasons first those with a rationale, the one
    that scores those with scores (1 to 10).
    """

    prompt: str
    response_a: str
    response_b: str
    comparison_request: str
    better: str
    rationale: str | None = None
    score_a: int | None = None
    score_b: int | None = None


@dataclass(frozen=True)
class Principle:
    """One principle. Its slug is its identity across versions, its `id` that of its texts."""

    slug: str
    critique_request: str
    revision_request: str
    comparison_request: str
    weight: float = 1.0
    tags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Hash of slug and texts. Weight and tags are left out: no model call sees them."""
        texts = [self.slug, self.critique_request, self.revision_request, self.comparison_request]
        return content_hash(texts, ROW_ID_DIGITS)


@dataclass(frozen=True)
class Constitution:
    """One version of a constitution. `based_on` is the version that its file says it was made from, where it does."""

    version: str
    principles: tuple[Principle, ...]
    dialogues: tuple[Dialogue, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    based_on: str | None = None

    def draw(
        self, prompt_id: str, stage: str, round_number: int, count: int = 1, seed: int = 0
    ) -> tuple[Principle, ...]:
        """`count` different principles for one place of one prompt, the first with probability weight / Σ weights.

        Weighted rendezvous hashing over the slugs: the principle with the highest −weight / ln u wins (Schindelhauer
        and Schomaker 2005; −ln u is exponential, and of exponentials with rates w the least is i with probability
        wᵢ / Σ w). So editing the text of one of k principles leaves every draw as it was, and adding or removing one
        moves only the draws that it wins.
        """
        places = unit_intervals((seed, prompt_id, stage, round_number), (one.slug for one in self.principles))
        scores = [-one.weight / math.log(u) for one, u in zip(self.principles, places, strict=True)]
        ranking = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return tuple(self.principles[index] for index in ranking[:count])

    def to_rows(self) -> list[dict[str, Any]]:
        """One row a principle, as in the table `constitution`."""
        dialogues = [asdict(dialogue) for dialogue in self.dialogues]
        comparisons = [asdict(comparison) for comparison in self.comparisons]
        return [
            {
                "constitution_version": self.version,
                "principle_id": principle.id,
                **asdict(principle),
                "tags": list(principle.tags),
                "dialogues": dialogues,
                "comparisons": comparisons,
            }
            for principle in self.principles
        ]

    @staticmethod
    def from_rows(rows: Sequence[Mapping[str, Any]]) -> "Constitution":
        """The constitution that `to_rows` wrote. There is at least one row: a constitution has a principle.

        `comparisons` is null in rows written before there were any.
        """
        principles = tuple(
            Principle(
                row["slug"],
                row["critique_request"],
                row["revision_request"],
                row["comparison_request"],
                row["weight"],
                tuple(row["tags"]),
            )
            for row in rows
        )
        dialogues = tuple(Dialogue(**dialogue) for dialogue in rows[0]["dialogues"])
        comparisons = tuple(Comparison(**comparison) for comparison in rows[0].get("comparisons") or ())
        return Constitution(rows[0]["constitution_version"], principles, dialogues, comparisons)


def load_constitution(file: Path) -> Constitution:
    """Read and check `<version>.yaml`.

    Raises ConstitutionError with one `file:line: field: problem` for each problem found.
    """
    value, lines = _parse_yaml(text_of_file(file), file)
    try:
        entry = _ConstitutionEntry.model_validate(value)
    except ValidationError as error:
        problems = [
            f"{file}:{_line_of(lines, problem['loc'])}: {_field_name(problem['loc'])}: {problem['msg']}"
            for problem in error.errors()[:MOST_PROBLEMS]
        ]
        if error.error_count() > MOST_PROBLEMS:
            problems.append(f"{file}: and {error.error_count() - MOST_PROBLEMS:,} more problems")
        raise ConstitutionError("\n".join(problems)) from error
    _refuse_duplicate_slugs(entry.principles, lines, file)
    if entry.based_on is not None:
        _refuse_unknown_base(entry.based_on, lines, file)
    return Constitution(
        version=file.stem,
        principles=tuple(
            Principle(**principle.model_dump(exclude={"tags"}), tags=tuple(principle.tags))
            for principle in entry.principles
        ),
        dialogues=tuple(Dialogue(**dialogue.model_dump()) for dialogue in entry.dialogues),
        comparisons=tuple(Comparison(**comparison.model_dump()) for comparison in entry.comparisons),
        based_on=entry.based_on,
    )


def text_of_file(file: Path) -> str:
    """The text of a file with a constitution. Raises ConstitutionError for one that is too large or not UTF-8."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ConstitutionError(f"{file}: cannot be read: {error.strerror}") from error
    if len(raw) > LARGEST_FILE:
        raise ConstitutionError(f"{file}: {len(raw):,} bytes; a constitution has at most {LARGEST_FILE:,}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConstitutionError(
            f"{file}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


_Location = tuple[str | int, ...]
_WORDS = ("slug", "better", "licence", "based_on")  # fields of one word: what comes after it is a comment
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as YAML 1.1 has them
_OTHER_NUMBER = re.compile(r"[-+]?(?:0[xob]?[0-9a-fA-F_]+|[0-9][0-9_]*(?::[0-5]?[0-9])*)(?:\.[0-9_]*)?")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9]+")
_yaml: Any = yaml  # its stubs leave the types of what it reads open


def _parse_yaml(text: str, file: Path) -> tuple[Any, dict[_Location, int]]:
    """Plain values and the line of each place. Aliases are refused: a constitution needs none, an alias bomb does."""
    try:
        depth = 0
        for event in cast("Iterable[yaml.Event]", _yaml.parse(text, Loader=yaml.CSafeLoader)):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                raise ConstitutionError(f"{file}:{line}: YAML aliases are not allowed; write the text out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST_NESTING:
                raise ConstitutionError(f"{file}:{line}: nested deeper than {DEEPEST_NESTING} levels")
        node = cast("yaml.Node | None", _yaml.compose(text, Loader=yaml.CSafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConstitutionError(f"{file}:{line}: not valid YAML: {_quoted(error.problem or '')}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConstitutionError(f"{file}:{line}: not valid YAML: {error.reason}") from error
    if node is None:
        raise ConstitutionError(f"{file}:1: the file is empty")
    _refuse_changed_texts(node, _LINE_END.split(text), file)
    lines: dict[_Location, int] = {}
    return _plain(node, (), lines, file), lines


def _refuse_changed_texts(root: yaml.Node, lines: list[str], file: Path) -> None:
    """Refuse what YAML reads otherwise than its writer: a text that ends at ` #`, and 010, 1:30 and 1_5 as numbers."""
    problems: list[str] = []
    for place, node in _unquoted(root, ()):
        name = f"{file}:{node.start_mark.line + 1}: {_field_name(place)}"
        after = lines[node.end_mark.line][node.end_mark.column :].lstrip()
        if node.tag.endswith(":str") and after.startswith("#") and place[-1] not in _WORDS:
            problems.append(f"{name}: a text ends at ` #`, where YAML sees a comment: quote the text")
        elif _OTHER_NUMBER.fullmatch(node.value) and not _PLAIN_NUMBER.fullmatch(node.value):
            read = _yaml.constructor.SafeConstructor().construct_object(node)
            meant = node.value.lstrip("0") if node.value.strip("0123456789") == "" else "a plain number"
            problems.append(f"{name}: YAML reads {_quoted(node.value)} as {read}; write {meant}")
    if problems:
        raise ConstitutionError("\n".join(problems[:MOST_PROBLEMS]))


def _unquoted(node: yaml.Node, place: _Location) -> Iterator[tuple[_Location, yaml.ScalarNode]]:
    """Every value that is written without quotation marks, and its place."""
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _unquoted(child, (*place, index))
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            yield from _unquoted(child, (*place, str(key.value)))
    elif isinstance(node, yaml.ScalarNode) and not node.style:
        yield place, node


def _plain(node: yaml.Node, place: _Location, lines: dict[_Location, int], file: Path) -> Any:
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*place, index), lines, file) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, child in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in mapping:
                first = lines[(*place, key)]
                raise ConstitutionError(f"{file}:{line}: {_field_name((*place, key))}: set already on line {first}")
            mapping[key] = _plain(child, (*place, key), lines, file)
            lines[(*place, key)] = line
        return mapping
    try:
        return _yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # by its tag it is what it is not
        raise ConstitutionError(
            f"{file}:{lines[place]}: {_field_name(place)}: {_quoted(node.value)!r} cannot be read"
        ) from error


def _line_of(lines: dict[_Location, int], place: _Location) -> int:
    """The line of a place, or of the nearest one around it that is in the file (a missing key has no line)."""
    while place not in lines:
        place = place[:-1]
    return lines[place]


def _field_name(place: _Location) -> str:
    """`principles[3].slug`"""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}" for part in place)
    return name.lstrip(".") or "constitution"


def _quoted(text: str) -> str:
    """Part of the file as a message has it: enough to find it by."""
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…"


def _refuse_unknown_base(base: str, lines: dict[_Location, int], file: Path) -> None:
    others = [version for version in constitution_versions(file.parent) if version != file.stem]
    if base not in others:
        there = ", ".join(others) or "none"
        raise ConstitutionError(
            f"{file}:{_line_of(lines, ('based_on',))}: based_on: {base!r} is no other version; there are {there}"
            f"{did_you_mean(base, others)}"
        )


def _refuse_duplicate_slugs(principles: list[_PrincipleEntry], lines: dict[_Location, int], file: Path) -> None:
    first: dict[str, int] = {}
    for index, principle in enumerate(principles):
        line = _line_of(lines, ("principles", index, "slug"))
        if principle.slug in first:
            raise ConstitutionError(
                f"{file}:{line}: principles[{index}].slug: {principle.slug!r} is already the slug on line "
                f"{first[principle.slug]}; a slug is a principle's identity and must be its own"
            )
        first[principle.slug] = line
