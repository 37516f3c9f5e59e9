"""Rows of the files that a user names: JSON, JSON lines, CSV, Parquet, text, Hugging Face dataset folders.

Every row of a file comes out, with `file:line` and, where it could not be read, with what is wrong with it. It knows
nothing of what the rows are for: prompts, preference pairs, evaluation sets, benchmarks.
"""

# pyright: reportMissingTypeStubs=false

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

from cai_dagster.errors import MendableError
from cai_dagster.hashing import content_hash
from cai_dagster.inputs.strict_json import JsonTextError, parsed_json
from cai_dagster.models.library_environment import keep_to_this_machine
from cai_dagster.project import PROJECT

_TEXT_FORMATS = (".jsonl", ".csv", ".txt")
COMPRESSIONS = (".gz", ".zst")
FORMATS = (
    *_TEXT_FORMATS,
    *(kind + packed for kind in _TEXT_FORMATS for packed in COMPRESSIONS),
    ".parquet",
)
"""Ends of the names of files with rows. A `.json` file with one list of objects is read too, where it is named."""
_LONGEST_FIELD = 2**30
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK\x03\x04": "a spreadsheet or zip file"}

_FileRow = tuple[int, Mapping[str, Any], str | None]


class SourceFileError(MendableError):
    """A file cannot be read at all; the message says which, why and what would do."""


class SourceRow(NamedTuple):
    """A row of a source: where it stands (`file:line`), its cells, what is wrong with it, and which source it is of."""

    place: str
    cells: Mapping[str, Any]
    problem: str | None
    source: str


@dataclass(frozen=True)
class Expected:
    """What a reader expects of a file.

    `asset` is named in errors. A file with columns must have all of one of the `alternatives`; any will do where there
    are none. `text_column` is what a line of a text file is called.
    """

    asset: str
    alternatives: tuple[tuple[str, ...], ...] = ()
    text_column: str = "text"


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
            for place, cells, problem in _dataset_rows(path, expected):
                yield SourceRow(place, cells, problem, source)
            continue
        for file in files_of(path, expected.asset):
            for number, cells, problem in _file_rows(file, expected):
                yield SourceRow(f"{file.name}:{number}", cells, problem, source)


def files_of(path: Path, asset: str) -> list[Path]:
    """The files of a source: itself, or those in the folder; in its `data` folder, where it has one (as on the Hub).

    Raises SourceFileError for a folder without any, and for a file of another format.
    """
    if not path.is_dir():
        _reader_of(path, asset)
        return [path]
    folder = path / "data" if (path / "data").is_dir() else path
    files = sorted(file for file in folder.iterdir() if file.name.endswith(FORMATS) and file.is_file())
    if not files:
        raise SourceFileError(f"{asset}: {folder} has no {', '.join(FORMATS)} file and is no dataset folder")
    return files


def stem_of(file: Path) -> str:
    """The name of a file without its format and compression: `pairs` of `pairs.jsonl.gz`."""
    return Path(_unpacked_name(file)).stem


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


def _unpacked_name(file: Path) -> str:
    return file.stem if file.suffix in COMPRESSIONS else file.name


def _reader_of(file: Path, asset: str) -> Callable[[Path, Expected], Iterator[_FileRow]]:
    readers = {
        ".jsonl": _jsonl_rows,
        ".json": _json_rows,
        ".txt": _text_rows,
        ".csv": _csv_rows,
        ".parquet": _parquet_rows,
    }
    reader = readers.get(Path(_unpacked_name(file)).suffix)
    if reader is None or (reader is _parquet_rows and file.suffix in COMPRESSIONS):
        raise SourceFileError(f"{asset}: {file} is none of {', '.join(FORMATS)}")
    return reader


def _file_rows(file: Path, expected: Expected) -> Iterator[_FileRow]:
    try:
        yield from _reader_of(file, expected.asset)(file, expected)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceFileError(f"{expected.asset}: {file} is not a readable gzip file: {error}") from error
    except OSError as error:
        raise SourceFileError(f"{expected.asset}: {file} cannot be read: {error.strerror or error}") from error


def _jsonl_rows(file: Path, expected: Expected) -> Iterator[_FileRow]:
    with _open(file, expected) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, *_json_object(line)


def _json_object(line: str) -> tuple[Mapping[str, Any], str | None]:
    """The object on a line; or the line as it is, and what is wrong with it."""
    try:
        row = parsed_json(line)
    except JsonTextError as error:
        return {"line": line}, str(error)
    if not isinstance(row, dict):
        return {"line": line}, "the line is not a JSON object"
    return cast("dict[str, Any]", row), None


def _json_rows(file: Path, expected: Expected) -> Iterator[_FileRow]:
    """One list of objects, numbered from 1."""
    with _open(file, expected) as text:
        try:
            rows = parsed_json(text.read())
        except JsonTextError as error:
            raise SourceFileError(f"{expected.asset}: {file}: {error}") from error
    if not isinstance(rows, list):
        raise SourceFileError(f"{expected.asset}: {file} is not a list of objects; write one object a line, as .jsonl")
    for number, row in enumerate(cast("list[object]", rows), 1):
        if isinstance(row, dict):
            yield number, cast("dict[str, Any]", row), None
        else:
            yield number, {"line": json.dumps(row)}, "the item is not a JSON object"


def _text_rows(file: Path, expected: Expected) -> Iterator[_FileRow]:
    with _open(file, expected) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, {expected.text_column: line.rstrip("\r\n")}, None


def _csv_rows(file: Path, expected: Expected) -> Iterator[_FileRow]:
    """Rows by the names in the header. One that has more or fewer cells is whole, in order, and has a problem."""
    csv.field_size_limit(_LONGEST_FIELD)
    with _open(file, expected) as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = next((row for row in reader if row), list[str]())
            _require_columns(file, header, expected)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) == len(header):
                    yield reader.line_num, dict(zip(header, cells, strict=True)), None
                else:
                    problem = (
                        f"the row has {len(cells)} cells and the header {len(header)}; quote a text with a comma, and "
                        "write every cell"
                    )
                    yield reader.line_num, {"cells": cells}, problem
        except csv.Error as error:
            raise SourceFileError(f"{expected.asset}: {file}:{reader.line_num}: {error}") from error


def _parquet_rows(file: Path, expected: Expected) -> Iterator[_FileRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow: Any = pa
    parquet: Any = pq
    try:
        table = parquet.ParquetFile(file)
        schema = table.schema_arrow
        _require_columns(file, schema.names, expected)
        categories = _category_names(schema.metadata)
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, _with_names(row, categories), None
    except (arrow.ArrowException, OSError) as error:
        raise SourceFileError(f"{expected.asset}: {file} is not a readable Parquet file: {error}") from error


def _category_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the columns that hold numbers of categories, which `datasets` notes in a Parquet file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, AttributeError, TypeError):
        return {}


def _with_names(row: Mapping[str, Any], categories: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The row with names of categories in place of their numbers; −1 is no category."""
    named = {
        column: names[row[column]] if 0 <= row[column] < len(names) else None
        for column, names in categories.items()
        if isinstance(row.get(column), int)
    }
    return {**row, **named}


def _dataset_rows(folder: Path, expected: Expected) -> Iterator[tuple[str, Mapping[str, Any], str | None]]:
    """Rows of what `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, all splits of it."""
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
        kinds = split.features.items()
        categories = {column: kind.names for column, kind in kinds if isinstance(kind, library.ClassLabel)}
        for number, row in enumerate(split, 1):
            yield f"{name}:{number}", _with_names(row, categories), None


def _require_columns(file: Path, columns: Iterable[str], expected: Expected) -> None:
    names = list(columns)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SourceFileError(
            f"{expected.asset}: {file} has the column {twice[0]!r} more than once; give each its own name"
        )
    if expected.alternatives and not any(set(wanted) <= set(names) for wanted in expected.alternatives):
        wanted = " nor ".join(" with ".join(repr(name) for name in one) for one in expected.alternatives)
        raise SourceFileError(
            f"{expected.asset}: {file} has neither the column {wanted}; it has {names}. Set the names of the columns."
        )


def _open(file: Path, expected: Expected) -> TextIO:
    """UTF-8 text; bytes that are none become lone surrogates, by which their row is recognised and rejected.

    Raises SourceFileError for a file that begins as no UTF-8 text does.
    """
    raw = _unpacked(file)
    start = raw.peek(4)[:4]
    for mark, kind in _OTHER_ENCODINGS.items():
        if start.startswith(mark):
            raise SourceFileError(f"{expected.asset}: {file} is {kind}; save it as UTF-8 text")
    newline = "" if Path(_unpacked_name(file)).suffix == ".csv" else "\n"
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _unpacked(file: Path) -> io.BufferedReader:
    if file.suffix == ".gz":
        return io.BufferedReader(cast("io.RawIOBase", gzip.open(file, "rb")))
    if file.suffix == ".zst":
        import pyarrow as pa

        library: Any = pa
        return io.BufferedReader(cast("io.RawIOBase", library.input_stream(str(file), compression="zstd")))
    return cast("io.BufferedReader", cast("BinaryIO", file.open("rb")))
