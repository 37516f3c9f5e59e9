"""What was read of each source: how many rows, from which columns, written how, and the first of them.

Each row is told of once, as kept or as refused, so that read = kept + refused.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cai_dagster.inputs.files import SourceRow
from cai_dagster.text import printable

LONGEST_LINE = 1_000  # characters of a sentence about a source


@dataclass
class SourceReport:
    """The rows of one source. `refused` counts by the first word of the reason."""

    source: str
    rows: int = 0
    kept: int = 0
    read_as: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    columns: dict[str, None] = field(default_factory=dict[str, None])
    first: Mapping[str, Any] | None = None
    first_refused: str | None = None


@dataclass
class ImportReport:
    """The reports of all sources of an import. `columns_read` are those that the import takes something from."""

    columns_read: Sequence[str] = ()
    sources: dict[str, SourceReport] = field(default_factory=dict[str, SourceReport])

    def kept(self, row: SourceRow, read_as: str) -> None:
        """Something was made of the row, which was written in this way."""
        source = self._source_of(row)
        source.kept += 1
        source.read_as[read_as] += 1
        source.columns.update(dict.fromkeys(row.cells))
        if source.first is None:
            source.first = row.cells

    def refused(self, row: SourceRow, reason: str) -> None:
        """Nothing was made of the row, for this reason."""
        source = self._source_of(row)
        source.refused[reason.partition(":")[0]] += 1
        if source.first_refused is None:
            source.first_refused = f"{row.place}: {reason}"

    def lines(self) -> list[str]:
        """A sentence a source: how many rows, from which columns, written how, and the first of them."""
        lines: list[str] = []
        for one in self.to_json():
            refused = ", ".join(f"{count:,} {code}" for code, count in one["refused"].items())
            written = ", ".join(f"{count:,} as {way}" for way, count in one["read_as"].items())
            parts = [
                f"{one['source']}: {one['rows']:,} rows, {one['kept']:,} kept" + (f" ({written})" if written else "")
            ]
            parts += [f"refused: {refused}; first {one['first_refused']}"] if refused else []
            parts += [f"columns read: {', '.join(one['columns_read'])}"] if one["columns_read"] else []
            parts += [f"not read: {', '.join(one['columns_not_read'])}"] if one["columns_not_read"] else []
            first = one["first_row"]
            parts += [f"first row: {json.dumps(first, default=str, ensure_ascii=False)}"] if first else []
            lines.append(printable("; ".join(parts), LONGEST_LINE))
        return lines

    def to_json(self) -> list[dict[str, Any]]:
        """A document a source, as `cai import --json` prints it."""
        return [
            {
                "source": one.source,
                "rows": one.rows,
                "kept": one.kept,
                "refused": dict(one.refused),
                "read_as": dict(one.read_as),
                "columns_read": [column for column in one.columns if column in self.columns_read],
                "columns_not_read": [column for column in one.columns if column not in self.columns_read],
                "first_row": None if one.first is None else dict(one.first),
                "first_refused": one.first_refused,
            }
            for one in self.sources.values()
        ]

    def _source_of(self, row: SourceRow) -> SourceReport:
        source = self.sources.setdefault(row.source, SourceReport(row.source))
        source.rows += 1
        return source
