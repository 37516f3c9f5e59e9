"""Rows on their way into the lake: validated chunk by chunk, written to Parquet where no reader looks.

A row that its table's pandera model refuses, or that its stage gave up on, is set aside with its reason. What is here
becomes visible only when `lake.Lake.commit` registers it, all at once. Memory does not grow with the number of rows.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl

from cai_dagster.disk import full_disk_named
from cai_dagster.lake.forgotten_prompts import FORGOTTEN
from cai_dagster.lake.scratch import new_scratch_folder
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.table import Table

CHUNK_ROWS = 20_000  # of rows that come one by one
FRAME_ROWS = 250_000  # of a frame, which is in memory anyway: few files are cheaper than many


@dataclass(frozen=True)
class StagedFiles:
    """What a process has staged: its files, and how many rows are in them."""

    parts: list[Path]
    rejected_parts: list[Path]
    row_count: int
    rejected_count: int
    reasons: dict[str, int]


class StagedRows:
    """The rows of one table (of one constitution version, where the table has any), not yet committed.

    Not `validated`: rows that are only counted, as a plan does. They cannot be committed.
    """

    def __init__(self, folder: Path, table: str, constitution_version: str | None, validated: bool = True) -> None:
        self._validated = validated
        self.table: Table = TABLES[table]
        self.constitution_version = constitution_version
        self.folder = new_scratch_folder(folder)
        self.parts: list[Path] = []
        self.rejected_parts: list[Path] = []
        self.row_count = 0
        self.rejected_count = 0
        self.inputs = 0
        self.reasons: dict[str, int] = {}
        self._started = time.monotonic()
        self._rows: list[dict[str, Any]] = []
        self._rejected: list[dict[str, Any]] = []

    @property
    def rejected_share(self) -> float:
        """Rejected rows of all there was to work on; 0 where there is nothing. Forgotten prompts are none of them."""
        return min(1.0, self._refused / max(1, self.worked_on))

    @property
    def worked_on(self) -> int:
        """The rows of `inputs`, where a stage makes several of one; else those that are here, and those set aside."""
        return self.inputs or self.row_count + self._refused

    @property
    def _refused(self) -> int:
        return self.rejected_count - self.reasons.get(FORGOTTEN, 0)

    @property
    def seconds(self) -> float:
        """Wall time since the first moment of this materialization."""
        return time.monotonic() - self._started

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Stage rows given as mappings; the constitution version is filled in."""
        version = {"constitution_version": self.constitution_version} if self.table.versioned else {}
        for row in rows:
            self._rows.append({**row, **version})
            if len(self._rows) >= CHUNK_ROWS:
                self._flush_rows()

    def add_frame(self, frame: pl.DataFrame) -> None:
        """Stage a frame that has the table's columns (any order; the constitution version is filled in)."""
        if self.table.versioned:
            frame = frame.with_columns(pl.lit(self.constitution_version).alias("constitution_version"))
        frame = frame.select(self.table.schema.names()).cast(self.table.schema, strict=False)  # pyright: ignore[reportArgumentType]
        for chunk in frame.iter_slices(FRAME_ROWS):
            self._write_valid(chunk)

    def reject(self, row_id: str, reason: str, row: Mapping[str, Any]) -> None:
        """Set one row aside. `reason` begins with a code of one word and a colon."""
        self.rejected_count += 1
        code = reason.split(":", 1)[0]
        self.reasons[code] = self.reasons.get(code, 0) + 1
        self._rejected.append(
            {
                "table_name": self.table.name,
                "row_id": _utf8(row_id),
                "reason": _utf8(reason),
                "row": _utf8(json.dumps(row, ensure_ascii=False, default=str)),
                "constitution_version": self.constitution_version,
            }
        )
        if len(self._rejected) >= CHUNK_ROWS:
            self._flush_rejected()

    @property
    def files(self) -> StagedFiles:
        """What is here, for `adopt` in the process that commits it; after `close`."""
        return StagedFiles(self.parts, self.rejected_parts, self.row_count, self.rejected_count, self.reasons)

    def adopt(self, files: StagedFiles) -> None:
        """Add what another process has staged in a folder below this one's."""
        self.parts += files.parts
        self.rejected_parts += files.rejected_parts
        self.row_count += files.row_count
        self.rejected_count += files.rejected_count
        for code, count in files.reasons.items():
            self.reasons[code] = self.reasons.get(code, 0) + count

    def start_again(self) -> None:
        """Forget all rows; the time goes on."""
        for part in (*self.parts, *self.rejected_parts):
            part.unlink()
        self.parts, self.rejected_parts, self.reasons = [], [], {}
        self._rows, self._rejected = [], []
        self.row_count = self.rejected_count = self.inputs = 0

    def close(self) -> None:
        """Write what is still in memory. Call once, before `Lake.commit`."""
        self._flush_rows()
        self._flush_rejected()

    def _flush_rows(self) -> None:
        if self._rows:
            try:
                frame = pl.DataFrame(self._rows, schema=self.table.schema, strict=False)
            except UnicodeEncodeError:
                frame = pl.concat([self._one_row(row) for row in self._rows])
            self._rows = []
            self._write_valid(frame)

    def _one_row(self, row: dict[str, Any]) -> pl.DataFrame:
        """The row as a frame; set aside, and an empty frame, where a text in it is not UTF-8."""
        try:
            return pl.DataFrame([row], schema=self.table.schema, strict=False)
        except UnicodeEncodeError as error:
            self.reject(self._row_id(row), f"invalid_row: not UTF-8: {error.reason}", row)
            return self.table.schema.to_frame()

    def _row_id(self, row: Mapping[str, Any]) -> str:
        return "/".join(str(row.get(column)) for column in self.table.key if column != "constitution_version")

    def _flush_rejected(self) -> None:
        if self._rejected:
            frame = pl.DataFrame(self._rejected, schema=TABLES["rejected_rows"].schema)
            self.rejected_parts.append(self._write(frame, f"rejected_{len(self.rejected_parts)}"))
            self._rejected = []

    def _write_valid(self, frame: pl.DataFrame) -> None:
        if self._validated:
            frame = self._valid(frame)
        self.row_count += frame.height
        if frame.height:
            self.parts.append(self._write(frame, f"rows_{len(self.parts)}"))

    def _valid(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows that keep the rules of the table; the others are set aside."""
        import pandera.errors

        from cai_dagster.tables.validation import pandera_schema

        try:
            pandera_schema(self.table).validate(frame, lazy=True)
        except pandera.errors.SchemaErrors as errors:
            return self._set_aside(frame, cast("pl.DataFrame", errors.failure_cases))  # pyright: ignore[reportUnknownMemberType]
        return frame

    def _set_aside(self, frame: pl.DataFrame, failures: pl.DataFrame) -> pl.DataFrame:
        """Reject the rows that failed a check, with every check they failed; return the others."""
        reasons: dict[int, list[str]] = {}
        for failure in failures.iter_rows(named=True):
            reasons.setdefault(failure["index"], []).append(
                f"{failure['column']} fails {failure['check']} ({failure['failure_case']!r:.80})"
            )
        numbered = frame.with_row_index("__index")
        for row in numbered.filter(pl.col("__index").is_in(list(reasons))).iter_rows(named=True):
            index = row.pop("__index")
            self.reject(self._row_id(row), "invalid_row: " + "; ".join(reasons[index]), row)
        return numbered.filter(~pl.col("__index").is_in(list(reasons))).drop("__index")

    def _write(self, frame: pl.DataFrame, name: str) -> Path:
        part = self.folder / f"{name}.parquet"
        with full_disk_named(self.folder):
            frame.write_parquet(part)
        return part


def _utf8(text: str) -> str:
    """Lone surrogates, which no Parquet string can hold, as their escapes; all other text as it is."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
