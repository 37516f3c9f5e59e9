"""Exports: a table of one constitution version as a folder that `datasets.load_dataset` reads.

One file a split, a dataset card, and what the format could not hold in rejected.jsonl. The rows come from one snapshot
of the lake and are streamed; the folder appears at once, complete. It knows no format: that is `export_formats`.
"""

# The libraries below are typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import json
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from cai_dagster.dataset_card import MARK, UNKNOWN_LICENCE, CardFacts, ExportedSplit, dataset_card
from cai_dagster.disk import full_disk_named
from cai_dagster.export_formats import (
    Column,
    ExportError,
    ExportFormat,
    FileFormat,
    Layout,
    Record,
    UnwritableRowError,
    layout_of,
)
from cai_dagster.lake import STREAM_ROWS, Lake
from cai_dagster.scratch import scratch_folder
from cai_dagster.snapshots import TableSnapshot
from cai_dagster.tables import TABLES

if TYPE_CHECKING:
    from datasets import Features

CARD = "README.md"
REJECTED = "rejected.jsonl"
FIGURES = ("judge_calibration", "reward_model_evaluation")
MOST_FIGURES = 40  # rows of one table of figures in a card
# The rows of a table with their split; supervised examples are made of the prompts of one split only.
_ROWS = {"sft_dataset": "SELECT *, 'sft' AS split FROM rows", "preference_pairs": "SELECT * FROM rows"}


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
        made.mkdir()
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
            materializations=_materializations(rows),
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
            split = row["split"]
            if split not in files:
                files[split] = stack.enter_context(_SplitFile(folder, split, features, file_format))
            files[split].add(records)
    return [file.described(folder) for _, file in sorted(files.items())], dict(rejected)


class _SplitFile:
    """One split's file, written a block of records at a time."""

    def __init__(self, folder: Path, split: str, features: "Features", file_format: FileFormat) -> None:
        import pyarrow.parquet

        self.split = split
        self.records = 0
        self.path = folder / "data" / f"{split}.{file_format.value}"
        self.path.parent.mkdir(exist_ok=True)
        self._block: list[Record] = []
        self._schema: Any = features.arrow_schema
        self._parquet: Any = None
        if file_format == FileFormat.parquet:
            parquet: Any = pyarrow.parquet
            self._parquet = parquet.ParquetWriter(self.path, self._schema)
        else:
            self._text = self.path.open("w", encoding="utf-8", newline="\n")

    def __enter__(self) -> "_SplitFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._write_block()
        (self._parquet or self._text).close()

    def add(self, records: list[Record]) -> None:
        self._block.extend(records)
        if len(self._block) >= STREAM_ROWS:
            self._write_block()

    def described(self, folder: Path) -> ExportedSplit:
        file = self.path.relative_to(folder).as_posix()
        return ExportedSplit(self.split, file, self.records, self.path.stat().st_size)

    def _write_block(self) -> None:
        import pyarrow as pa

        if self._parquet:
            arrow: Any = pa
            self._parquet.write_table(arrow.Table.from_pylist(self._block, schema=self._schema))
        else:
            self._text.writelines(_json_line(record) for record in self._block)
        self.records += len(self._block)
        self._block = []


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
    types: dict[Column, Any] = {
        Column.text: text,
        Column.number: Value("float64"),
        Column.integer: Value("int64"),
        Column.truth: Value("bool"),
        Column.turns: List(turn),
        Column.ranked: List({"rank": Value("int64"), "completion": List(turn)}),
    }
    return Features({name: types[column] for name, column in layout.columns.items()})


def _label_policies(rows: TableSnapshot) -> dict[str, int]:
    if "label_policy" not in TABLES[rows.table].schema:
        return {}
    counts = rows.lake.query("SELECT label_policy, count(*) FROM rows GROUP BY ALL ORDER BY ALL", rows=rows)
    return dict(counts.iter_rows())


def _all_rows(rows: TableSnapshot, table: str) -> list[dict[str, Any]]:
    """The rows of another table of the same version at the same snapshot, as many as a card shows."""
    other = TableSnapshot(rows.lake, table, rows.constitution_version, rows.snapshot_id)
    found = other.frame()
    return (found if table == "constitution" else found.head(MOST_FIGURES)).to_dicts()


def _materializations(rows: TableSnapshot) -> list[dict[str, Any]]:
    """The last materialization of each table that the version (or every version) reads."""
    accounts = TableSnapshot(rows.lake, "materializations", None, rows.snapshot_id).frame()
    version = pl.col("constitution_version")
    return (
        accounts.filter(version.is_null() | (version == rows.constitution_version))
        .sort("materialized_at")
        .unique("table_name", keep="last", maintain_order=True)
        .to_dicts()
    )
