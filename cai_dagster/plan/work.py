"""What a step works with: the tables before it, the rows of its own table, and room for files of its own.

An asset hands it snapshots; a plan hands it the rows that it has planned. A step sees no difference.
"""

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_dagster.disk import full_disk_named
from cai_dagster.home import Home
from cai_dagster.inputs.human_preferences import RejectedPair
from cai_dagster.inputs.prompts import RejectedPrompt
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.queries import Rows
from cai_dagster.lake.scratch import scratch_folder, scratch_of, temporary_scratch
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.lake.staging import StagedRows

if TYPE_CHECKING:
    import polars as pl

ROWS_AT_ONCE = 10_000  # pairs with their judgements, or prompts with their rounds: so many texts are in memory

JUDGED_PAIRS = {
    "response_pairs": "FROM response_pairs",
    "judgements": "FROM judgements",
    "prompts": "SELECT pair_id, prompts.* FROM response_pairs JOIN prompts USING (prompt_id)",
}


@dataclass(frozen=True)
class Work:
    """What a step reads and fills: the tables before it, committed or staged, and the rows of its own table."""

    home: Home
    lake: Lake
    version: str
    tables: Mapping[str, Rows]
    staged: StagedRows

    def frame(self, table: str) -> "pl.DataFrame":
        """All rows of a table that it reads, ordered by the table's key."""
        return self.lake.read(self.tables[table])

    def parts(self, column: str, selects: Mapping[str, str]) -> "Iterator[dict[str, pl.DataFrame]]":
        """The rows of SELECTs over its tables, a part at a time, in the order of a column of ids."""
        return self.lake.parts(column, ROWS_AT_ONCE, selects, **self.tables)

    def judged_parts(self, selects: Mapping[str, str]) -> "Iterator[dict[str, pl.DataFrame]]":
        """Pairs with their judgements and prompts, a part at a time; each prompt of a part once."""
        for part in self.parts("pair_id", selects):
            yield {**part, "prompts": part["prompts"].unique("prompt_id")}

    @contextlib.contextmanager
    def scratch(self) -> Generator[Path]:
        """A folder for files that the step needs while it works. Raises DiskFullError where they find no room."""
        with full_disk_named(self.home.root, temporary_scratch()), scratch_folder(scratch_of(self.home)) as folder:
            yield folder

    def keep(self, row: dict[str, Any]) -> None:
        """Stage a row."""
        self.staged.add([row])

    def reject(self, row: RejectedPair | RejectedPrompt) -> None:
        """Set a row of a source aside."""
        self.staged.reject(row.source, row.reason, row.row)

    @property
    def snapshots(self) -> dict[str, int]:
        """The snapshot of each table that is committed."""
        return {name: rows.snapshot_id for name, rows in self.tables.items() if isinstance(rows, TableSnapshot)}
