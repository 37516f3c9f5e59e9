"""Rows of the files that a user names: JSON lines (plain or gzipped), CSV, Parquet, text, Hugging Face dataset folders.

A row comes with `file:line` and, where it could not be read, with what is wrong with it. It knows nothing of what the
rows are for: prompts, preference pairs, evaluation sets.
"""

# pyright: reportMissingTypeStubs=false

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from cai_dagster.errors import MendableError
from cai_dagster.hashing import content_hash
from cai_dagster.home import PROJECT
from cai_dagster.models.chat_format import keep_to_this_machine

FORMATS = (".jsonl", ".jsonl.gz", ".csv", ".parquet", ".txt")
_LONGEST_FIELD = 2**30
_MORE_CELLS = "cells beyond the header"

SourceRow = tuple[str, Mapping[str, Any], str | None]  # file:line, row, what is wrong with it
_FileRow = tuple[int, Mapping[str, Any], str | None]


class SourceFileError(MendableError):
    """A file cannot be read at all; the message says which, why and what would do."""


@dataclass(frozen=True)
class Expected:
    """What a reader expects of a file.

    `asset` is named in errors. A file with columns must have all of one of the `alternatives`; any will do where there
    are none. `text_column` is what a line of a text file is called, `json_column` what holds JSON in a CSV file.
    """

    asset: str
    alternatives: tuple[tuple[str, ...], ...] = ()
    text_column: str = "text"
    json_column: str = ""


def source_rows(sources: Sequence[str], expected: Expected) -> Iterator[SourceRow]:
    """Every row of every source. Relative paths count from the project folder.

    Raises SourceFileError for a source that does not exist, has no readable format or has none of the columns.
    """
    for source in sources:
        path = PROJECT / Path(source).expanduser()
        if not path.exists():
            raise SourceFileError(
                f"{expected.asset}: {path} does not exist; a source is a file or a folder on this machine"
            )
        if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
            yield from _dataset_rows(path, expected)
            continue
        files = (
            sorted(file for file in path.iterdir() if file.name.endswith(FORMATS) and file.is_file())
            if path.is_dir()
            else [path]
        )
        if not files:
            raise SourceFileError(f"{expected.asset}: {path} has no {', '.join(FORMATS)} file and is no dataset folder")
        for file in files:
            yield from _file_rows(file, expected)


def fingerprint(sources: Sequence[str]) -> str:
    """A hash of the sources' files, by path, size and time of change: another one after any of them was touched.

    Raises SourceFileError for a source that does not exist.
    """
    seen: list[tuple[str, int, int]] = []
    for path in (PROJECT / Path(source).expanduser() for source in sources):
        if not path.exists():
            raise SourceFileError(f"{path} does not exist; a source is a file or a folder on this machine")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            state = file.stat()
            seen.append((str(file), state.st_size, state.st_mtime_ns))
    return content_hash(seen)


def _file_rows(file: Path, expected: Expected) -> Iterator[SourceRow]:
    readers = {".jsonl": _jsonl_rows, ".txt": _text_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(Path(file.name.removesuffix(".gz")).suffix)
    if reader is None or not file.name.endswith(FORMATS):
        raise SourceFileError(f"{expected.asset}: {file} is none of {', '.join(FORMATS)}")
    for number, row, problem in reader(file, expected):
        yield f"{file.name}:{number}", row, problem


def _jsonl_rows(file: Path, expected: Expected) -> Iterator[_FileRow]:
    try:
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
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceFileError(f"{expected.asset}: {file} is not a readable gzip file: {error}") from error


def _text_rows(file: Path, expected: Expected) -> Iterator[_FileRow]:
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, {expected.text_column: line.rstrip("\r\n")}, None


def _csv_rows(file: Path, expected: Expected) -> Iterator[_FileRow]:
    csv.field_size_limit(_LONGEST_FIELD)
    with _open(file) as lines:
        reader = csv.DictReader(lines, restkey=_MORE_CELLS, strict=True)
        _require_columns(file, reader.fieldnames or (), expected)
        try:
            for row in reader:
                turns = row.get(expected.json_column)
                if turns:
                    parsed, problem = _parse_json(turns)
                    yield reader.line_num, {**row, expected.json_column: parsed or turns}, problem
                else:
                    yield reader.line_num, row, None
        except csv.Error as error:
            raise SourceFileError(f"{expected.asset}: {file}:{reader.line_num}: {error}") from error


def _parquet_rows(file: Path, expected: Expected) -> Iterator[_FileRow]:
    import polars as pl

    try:
        frame = pl.read_parquet(file)
    except pl.exceptions.PolarsError as error:
        raise SourceFileError(f"{expected.asset}: {file} is not a readable Parquet file: {error}") from error
    _require_columns(file, frame.columns, expected)
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        yield number, row, None


def _dataset_rows(folder: Path, expected: Expected) -> Iterator[SourceRow]:
    """Rows of what `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    keep_to_this_machine()
    import datasets

    library: Any = datasets
    try:
        loaded = library.load_from_disk(str(folder))
    except (OSError, ValueError, LookupError) as error:
        raise SourceFileError(f"{expected.asset}: {folder} is not a readable dataset folder: {error}") from error
    splits: dict[str, Any] = dict(loaded) if isinstance(loaded, library.DatasetDict) else {folder.name: loaded}
    for name, split in splits.items():
        _require_columns(folder, split.column_names, expected)
        for number, row in enumerate(split, 1):
            yield f"{name}:{number}", row, None


def _parse_json(text: str) -> tuple[Any, str | None]:
    """The value, or what is wrong with it: not JSON, nested too deeply, a number of thousands of digits."""
    try:
        return json.loads(text), None
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"


def _require_columns(file: Path, columns: Iterable[str], expected: Expected) -> None:
    names = list(columns)
    if expected.alternatives and not any(set(wanted) <= set(names) for wanted in expected.alternatives):
        wanted = " nor ".join(" with ".join(repr(name) for name in one) for one in expected.alternatives)
        raise SourceFileError(
            f"{expected.asset}: {file} has neither the column {wanted}; it has {names}. Set the names of the columns."
        )


def _open(file: Path) -> TextIO:
    """UTF-8 text; bytes that are none become lone surrogates, by which their row is recognised and rejected."""
    newline = "" if file.suffix == ".csv" else "\n"
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)
