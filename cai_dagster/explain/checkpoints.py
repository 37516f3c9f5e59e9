"""A checkpoint's record: the rows it was trained on, at its snapshots."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cai_dagster.explain.rows import PREFERENCE_SPLIT, TableRows, is_versioned
from cai_dagster.lake.connection import literal
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.table import Table

_NAMED_DIGITS = 12  # of a checkpoint's key, in the name of its weights
# A principle-conditioned reward model reads the judgements themselves.
_JUDGED_PREFERENCES = """t.pair_id IN (
    SELECT p.pair_id FROM {response_pairs} p JOIN {prompts} q USING (prompt_id) WHERE q.split = 'preference')"""


def training_condition(table: Table) -> str:
    """SQL for the rows of a table that training reads: of tables that know splits, those of the split `preference`."""
    return PREFERENCE_SPLIT if table.has("split") else "true"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's record as it lies in the lake, or beside the weights where it is in use no more."""

    asset: str
    key: str
    versions: tuple[str, ...]
    record: Mapping[str, Any]

    @property
    def constitution_version(self) -> str:
        """The version it was first trained for; `versions` are those that use it now."""
        return self.record["constitution_version"]

    @property
    def snapshots(self) -> Mapping[str, int]:
        """The snapshot of each table that it was trained on."""
        return self.record["lake_snapshots"]

    def starts_from(self, other: "Checkpoint") -> bool:
        """Whether its training began with the weights of the other one."""
        return other.is_named_by(self.record["base_model"])

    def is_named_by(self, model_id: str) -> bool:
        """Whether the id of a model, as calls and records have it, is that of its weights."""
        return model_id.startswith(f"{self.asset}-{self.key[:_NAMED_DIGITS]}@")

    @property
    def rows(self) -> list[TableRows]:
        """The rows it was trained on: what the trainers of `assets` read. None where its record names no snapshot."""
        if not self.snapshots:
            return []
        settings: Mapping[str, Any] = self.record["settings"]
        rows = {name: TableRows(name, training_condition(TABLES[name])) for name in TABLES[self.asset].trained_on}
        if not settings.get("human_weight"):
            rows.pop("human_preferences", None)
        if settings.get("principle_conditioned"):
            rows["preference_pairs"] = TableRows("judgements", _JUDGED_PREFERENCES)
        return list(rows.values())

    def snapshot_of(self, table: str) -> int:
        """The snapshot at which it read a table, or what the tables it read were made from."""
        return self.snapshots.get(table) or max(self.snapshots.values(), default=0)

    def as_of(self, tables: Iterable[str]) -> dict[str, str]:
        """SQL for each table as it was when this checkpoint was trained."""
        return {table: self._as_of(table) for table in tables}

    def _as_of(self, table: str) -> str:
        rows = f"FROM lake.{table} AT (VERSION => {self.snapshot_of(table)})"
        if not is_versioned(table):
            return f"({rows})"
        return f"({rows} WHERE constitution_version = {literal(self.constitution_version)})"


@dataclass(frozen=True)
class Trained:
    """A checkpoint that saw rows of the filter: in so many of its training rows, or by what it was made of.

    `exact` is false where its snapshot has been expired: the rows are then counted as they are now.
    """

    checkpoint: Checkpoint
    training_rows: int
    exact: bool = True
    through: Checkpoint | None = None

    def to_json(self) -> dict[str, Any]:
        """As the commands print it."""
        through = self.through
        return {
            "asset": self.checkpoint.asset,
            "checkpoint_key": self.checkpoint.key,
            "constitution_version": self.checkpoint.constitution_version,
            "in_use_for": list(self.checkpoint.versions),
            "training_rows": self.training_rows,
            "exact": self.exact,
            "through": through and f"{through.asset}/{through.key}",
        }
