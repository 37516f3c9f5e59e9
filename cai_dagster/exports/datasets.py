"""Exports: a table of one constitution version as a folder that `datasets.load_dataset` reads.

One file a split, a dataset card, and what the format could not hold in rejected.jsonl. The rows come from one snapshot
of the lake and are written block by block; the folder appears at once, complete. It knows no format: that is
`export_formats`.
"""

# The libraries below are typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import json
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from cai_dagster.disk import full_disk_named
from cai_dagster.exports.dataset_card import MARK, UNKNOWN_LICENCE, CardFacts, ExportedSplit, dataset_card
from cai_dagster.exports.formats import (
    ExportColumn,
    ExportError,
    ExportFormat,
    FileFormat,
    Layout,
    Record,
    UnwritableRowError,
    layout_of,
)
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.newest import newest_materializations
from cai_dagster.lake.scratch import scratch_folder
from cai_dagster.lake.snapshot_tables import STREAM_ROWS
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.tables.registry import TABLES

if TYPE_CHECKING:
    from datasets import Features

CARD = "README.md"
REJECTED = "rejected.jsonl"
FIGURES = ("judge_calibration", "reward_model_evaluation")
MOST_FIGURES = 40  # rows of one table of figures in a card
_READERS_CHUNK = 10 * 2**20  # bytes of JSON lines that `datasets` reads at a time
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[ T].*)?\Z")
# The rows of a table with their split; supervised examples are made of the prompts of one split only.
_ROWS = {"sft_dataset": "SELECT *, 'sft' AS split FROM rows", "preference_pairs": "SELECT * FROM rows"}
# What readers of data sets look for; which prompts a row is of stands in its column `split`.
_FILES = {"sft": "train", "preference": "train", "evaluation": "test"}


@dataclass(frozen=True)
class Export:
    """What was exported: records by split, rejected rows by reason."""

    folder: Path
    snapshot_id: int
    records: Mapping[str, int]
    rejected: Mapping[str, int]


def export_table(
    lake: Lake,
    table: str,
    export_format: ExportFormat,
    constitution_version: str,
    folder: Path,
    file_format: FileFormat = FileFormat.parquet,
    snapshot_id: int | None = None,
    licence: str = UNKNOWN_LICENCE,
    overwrite: bool = False,
) -> Export:
    """Write the table's rows of one version, as they were at a snapshot (the current one where none is named).

    Raises ExportError when the table has no such format or no rows there, and when the folder exists.
    """
    layout = layout_of(table, export_format)
    _refuse_existing(folder, overwrite)
    rows = _rows_at(lake, table, constitution_version, snapshot_id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_named(folder.parent), _beside(folder) as scratch:
        made = scratch / "export"
        (made / "data").mkdir(parents=True)
        features = _features(layout)
        splits, rejected = _write_rows(rows, layout, features, file_format, made)
        if not splits:
            reasons = ", ".join(f"{count:,} {code}" for code, count in rejected.items())
            raise ExportError(
                f"no row of {table} can be written as {export_format.value}: {reasons}; try another --format"
            )
        facts = CardFacts(
            table=table,
            format=f"{export_format.value}, {file_format.value}",
            describes=layout.describes,
            constitution_version=constitution_version,
            snapshot_id=rows.snapshot_id,
            licence=licence,
            features=features,
            splits=splits,
            rejected=rejected,
            label_policies=_label_policies(rows),
            principles=_all_rows(rows, "constitution"),
            materializations=_materializations(lake, rows),
            figures={name: found for name in FIGURES if name in TABLES and (found := _all_rows(rows, name))},
        )
        (made / CARD).write_text(dataset_card(facts), encoding="utf-8")
        if folder.exists():
            folder.rename(scratch / "replaced")
        made.rename(folder)
    return Export(folder, rows.snapshot_id, {split.name: split.records for split in splits}, rejected)


def _refuse_existing(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that is there; with `overwrite`, one that is not an export."""
    if not folder.exists():
        return
    if not overwrite:
        raise ExportError(f"{folder} exists; name another --output, or replace it with --overwrite")
    card = folder / CARD
    if not (card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace")):
        raise ExportError(f"{folder} was not made by an export, so it is not overwritten; name another --output")


def _rows_at(lake: Lake, table: str, constitution_version: str, snapshot_id: int | None) -> TableSnapshot:
    import duckdb

    current = lake.snapshot(table, constitution_version)
    rows = TableSnapshot(lake, table, constitution_version, snapshot_id or current.snapshot_id)
    try:
        count = lake.count("SELECT * FROM rows", rows=rows)
    except duckdb.Error as error:
        raise ExportError(
            f"the lake has no snapshot {rows.snapshot_id} of {table}; the newest is {current.snapshot_id}"
        ) from error
    if not count:
        raise ExportError(
            f"{table} has no rows for constitution version {constitution_version!r} at snapshot {rows.snapshot_id}"
        )
    return rows


@contextmanager
def _beside(folder: Path) -> Generator[Path]:
    """A scratch folder on the file system of `folder`, so that what is made there is moved in one step."""
    # A hidden parent of its own: sweeping it must not look at what else lies beside the folder.
    parent = folder.parent / f".{folder.name}.exporting"
    try:
        with scratch_folder(parent) as scratch:
            yield scratch
    finally:
        if parent.exists() and not any(parent.iterdir()):
            parent.rmdir()


def _write_rows(
    rows: TableSnapshot, layout: Layout, features: "Features", file_format: FileFormat, folder: Path
) -> tuple[list[ExportedSplit], dict[str, int]]:
    """Write one file a split; the splits, and how many rows were rejected by reason."""
    table = TABLES[rows.table]
    key = ", ".join(f'"{column}"' for column in table.key)
    files: dict[str, _SplitFile] = {}
    rejected: Counter[str] = Counter()
    with ExitStack() as stack:
        for row in rows.lake.stream(f"{_ROWS[rows.table]} ORDER BY {key}", rows=rows):
            try:
                records = layout.records(row)
            except UnwritableRowError as error:
                rejected[error.code] += 1
                _append_rejected(folder, row, table.key, error)
                continue
            split = _FILES[row["split"]]
            if split not in files:
                path = folder / _file_of(split, file_format)
                made = _ParquetFile(path, features) if file_format == FileFormat.parquet else _JsonLinesFile(path)
                files[split] = stack.enter_context(made)
            files[split].add(records)
    splits = [
        ExportedSplit(split, name, file.records, (folder / name).stat().st_size)
        for split, file in sorted(files.items())
        for name in (_file_of(split, file_format),)
    ]
    return splits, dict(rejected)


def _file_of(split: str, file_format: FileFormat) -> str:
    return f"data/{split}.{file_format.value}"


class _SplitFile(Protocol):
    """One split's file, written a block of records at a time."""

    records: int

    def __enter__(self) -> "_SplitFile": ...

    def __exit__(self, *_: object) -> None: ...

    def add(self, records: list[Record]) -> None:
        """Write the records of one row."""
        ...


class _ParquetFile:
    def __init__(self, path: Path, features: "Features") -> None:
        import pyarrow as pa
        import pyarrow.parquet

        arrow: Any = pa
        parquet: Any = pyarrow.parquet
        self.records = 0
        self._block: list[Record] = []
        self._schema: Any = features.arrow_schema
        self._table: Any = arrow.Table
        self._parquet = parquet.ParquetWriter(path, self._schema)

    def __enter__(self) -> "_ParquetFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._write_block()
        self._parquet.close()

    def add(self, records: list[Record]) -> None:
        self._block.extend(records)
        if len(self._block) >= STREAM_ROWS:
            self._write_block()

    def _write_block(self) -> None:
        self._parquet.write_table(self._table.from_pylist(self._block, schema=self._schema))
        self.records += len(self._block)
        self._block = []


class _JsonLinesFile:
    """JSON lines, refused where `datasets` would read other texts than are written.

    It guesses types anew in each 10 MiB, whatever the card says, and takes a column in which every text is a date for
    moments. That happens: a constitution version may be called 2026-01-31.
    """

    def __init__(self, path: Path) -> None:
        self.records = 0
        self._path = path
        self._file = path.open("w", encoding="ascii", newline="\n")
        self._bytes = 0
        self._dates_only: dict[str, str] = {}
        self._ordinary: set[str] = set()

    def __enter__(self) -> "_JsonLinesFile":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._file.close()
        if error is None:
            self._refuse_dates_only()

    def add(self, records: list[Record]) -> None:
        for record in records:
            for column, value in record.items():
                for text in _texts(value):
                    if _DATE.match(text):
                        self._dates_only[column] = text
                    else:
                        self._ordinary.add(column)
            self._bytes += self._file.write(_json_line(record))
            if self._bytes > _READERS_CHUNK:
                self._refuse_dates_only()
        self.records += len(records)

    def _refuse_dates_only(self) -> None:
        for column in sorted(self._dates_only.keys() - self._ordinary):
            raise ExportError(
                f"{self._path.name}: every text of the column {column} is a date such as "
                f"{self._dates_only[column]!r}, and `datasets` would read them as moments; use --file-format parquet"
            )
        self._bytes, self._dates_only, self._ordinary = 0, {}, set()


def _texts(value: Any) -> Iterator[str]:
    """The texts in a column's value, without the roles of turns."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in cast("list[dict[str, Any]]", value):
            yield from _texts(part["content"] if "content" in part else part["completion"])


def _json_line(value: Mapping[str, Any]) -> str:
    """One line of ASCII: readers differ in whether they take U+2028 and its like for the end of a line."""
    return json.dumps(value, default=str) + "\n"


def _append_rejected(folder: Path, row: Mapping[str, Any], key: tuple[str, ...], error: UnwritableRowError) -> None:
    row_id = "/".join(str(row[column]) for column in key)
    with (folder / REJECTED).open("a", encoding="utf-8") as file:
        file.write(_json_line({"row_id": row_id, "reason": str(error), "row": row}))


def _features(layout: Layout) -> "Features":
    from datasets import Features, List, Value

    text, turn = Value("string"), {"role": Value("string"), "content": Value("string")}
    types: dict[ExportColumn, Any] = {
        ExportColumn.text: text,
        ExportColumn.number: Value("float64"),
        ExportColumn.integer: Value("int64"),
        ExportColumn.truth: Value("bool"),
        ExportColumn.turns: List(turn),
        ExportColumn.ranked: List({"rank": Value("int64"), "completion": List(turn)}),
    }
    return Features({name: types[column] for name, column in layout.columns.items()})


def _label_policies(rows: TableSnapshot) -> dict[str, int]:
    if not TABLES[rows.table].has("label_policy"):
        return {}
    counts = rows.lake.query("SELECT label_policy, count(*) FROM rows GROUP BY ALL ORDER BY ALL", rows=rows)
    return dict(counts.iter_rows())


def _all_rows(rows: TableSnapshot, table: str) -> list[dict[str, Any]]:
    """The rows of another table of the same version at the same snapshot, as many as a card shows."""
    other = TableSnapshot(rows.lake, table, rows.constitution_version, rows.snapshot_id)
    found = other.frame()
    return (found if table == "constitution" else found.head(MOST_FIGURES)).to_dicts()


def _materializations(lake: Lake, rows: TableSnapshot) -> list[dict[str, Any]]:
    """The last materialization of each table that the version (or every version) reads."""
    newest = newest_materializations(
        "constitution_version IS NULL OR constitution_version = $version", rows.snapshot_id
    )
    return lake.select(f"FROM ({newest}) ORDER BY materialized_at", {"version": rows.constitution_version}).to_dicts()
