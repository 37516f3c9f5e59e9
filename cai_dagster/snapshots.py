"""A table as it was at one moment: what an asset is handed of the assets before it; and what making one cost.

Light on purpose: assets name this type in their signatures, and loading them must not import duckdb or pandera.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from cai_dagster.lake import Lake


@dataclass(frozen=True)
class TableSnapshot:
    """One table (of one constitution version, or of all) as it was at one snapshot of the lake."""

    lake: "Lake" = field(repr=False)
    table: str
    constitution_version: str | None
    snapshot_id: int

    def frame(self) -> "pl.DataFrame":
        """All rows in memory, ordered by the table's key."""
        return self.lake.read(self)


@dataclass(frozen=True)
class Account:
    """What a materialization cost, as in the table `materializations`; tokens are those of the calls paid for."""

    run_id: str
    ledger_hits: int = 0
    ledger_misses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
