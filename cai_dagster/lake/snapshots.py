"""A table as it was at one moment: what an asset is handed of the assets before it; and what making one cost.

Light on purpose: assets name this type in their signatures, and loading them must not import duckdb or pandera.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import polars as pl

FORGET_RUN = "forget"  # the run_id in `materializations` of rows that `cai forget` removed: no run made them


class SnapshotReader(Protocol):
    """What reads the rows of a snapshot: `lake.Lake`, which documents the methods."""

    def read(self, snapshot: "TableSnapshot", /) -> "pl.DataFrame":
        """All rows, ordered by the table's key."""
        ...

    def query(self, sql: str, /, **tables: "TableSnapshot") -> "pl.DataFrame":
        """The result of a SELECT on snapshots."""
        ...

    def stream(self, sql: str, /, **tables: "TableSnapshot") -> Iterator[dict[str, Any]]:
        """The rows of a SELECT on snapshots, one at a time."""
        ...


@dataclass(frozen=True)
class TableSnapshot:
    """One table (of one constitution version, or of all) as it was at one snapshot of the lake."""

    lake: SnapshotReader = field(repr=False)
    table: str
    constitution_version: str | None
    snapshot_id: int

    def frame(self) -> "pl.DataFrame":
        """All rows in memory, ordered by the table's key."""
        return self.lake.read(self)


@dataclass(frozen=True)
class Account:
    """What a materialization is and what it cost, as in the table `materializations`.

    Tokens are those of the calls paid for; `data_version` is `Lake.data_version` of what is committed; `read_at` is the
    snapshot at which the run read the tables of other runs, or None for the last before the commit.
    """

    run_id: str
    data_version: str
    ledger_hits: int = 0
    ledger_misses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    engine_seconds: float = 0.0
    model_id: str | None = None
    seconds: float = 0.0
    read_at: int | None = None
