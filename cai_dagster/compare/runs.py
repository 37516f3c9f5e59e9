"""What the checks measured and what the runs cost, in two versions."""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from dataclasses import dataclass

from cai_dagster.compare.version import Row


@dataclass(frozen=True)
class CheckResult:
    """What a check measured in one version."""

    value: float | None
    passed: bool
    severity: str
    bounds: str


@dataclass(frozen=True)
class CheckChange:
    """A check in both versions; None where it has not run."""

    table: str
    check: str
    before: CheckResult | None
    after: CheckResult | None


@dataclass(frozen=True)
class Cost:
    """All that a table has cost so far; `calls_found` is what its last materialization found in the ledger."""

    calls_paid: int = 0
    calls_found: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class CostChange:
    """The cost of one table in both versions; None where it was never materialized."""

    table: str
    before: Cost | None
    after: Cost | None


def check_changes(before: Sequence[Row], after: Sequence[Row]) -> list[CheckChange]:
    """Every check that ran in either version, with what it measured last."""
    old, new = (
        {
            (row["table_name"], row["check_name"]): CheckResult(
                row["value"], row["passed"], row["severity"], row["bounds"]
            )
            for row in rows
        }
        for rows in (before, after)
    )
    return [CheckChange(*key, old.get(key), new.get(key)) for key in sorted({*old, *new})]


def cost_changes(before: Sequence[Row], after: Sequence[Row]) -> list[CostChange]:
    """Every table that either version has paid for or spent time on."""
    old, new = (
        {
            row["table_name"]: Cost(int(row["calls_paid"]), row["calls_found"], int(row["tokens"]), row["seconds"])
            for row in rows
        }
        for rows in (before, after)
    )
    return [CostChange(table, old.get(table), new.get(table)) for table in dict.fromkeys([*old, *new])]
