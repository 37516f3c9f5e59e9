"""What the result of a check means: the one place that says it of a row of `check_results`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cai_dagster.checks.declarations import CHECKS

_LIMIT = re.compile(r"(?:above|at least|at most) (\S+?)(?:,|$)")


class Outcome(StrEnum):
    """How a check ended. Of `earlier_rows`: the rows that it measured have been replaced since."""

    passed = "passed"
    warned = "warned"
    failed = "failed"
    not_measured = "not measured"
    earlier_rows = "of earlier rows"

    @property
    def is_bad(self) -> bool:
        """Whether somebody should look at it."""
        return self in (Outcome.warned, Outcome.failed)


@dataclass(frozen=True)
class LatestResult:
    """The latest result of one check of one version (None: of a table that all versions share)."""

    table: str
    check: str
    version: str | None
    outcome: Outcome
    value: float | None
    estimate: float | None
    bounds: str
    rows: int
    checked_at: str

    @property
    def name(self) -> str:
        """`revision_rounds.repetition`"""
        return f"{self.table}.{self.check}"

    @property
    def measured(self) -> str:
        """The value in words: `0.12`; of an interval's end `0.1 (lower end of the interval of 0.4)`."""
        return measured(self.value, self.estimate)

    @property
    def advice(self) -> str:
        """What to do where it is beyond its bound."""
        return next((check.advice for check in CHECKS if (check.table, check.name) == (self.table, self.check)), "")


def measured(value: float | None, estimate: float | None) -> str:
    """A check's value in words, with the figure whose interval it is the end of, where it is one."""
    if value is None:
        return "not measured"
    return f"{value:.4g}" if estimate is None else f"{value:.4g} (the lower end of the 95 % interval of {estimate:.4g})"


def outcome_of(result: Mapping[str, Any], data_version: str | None = None) -> Outcome:
    """The outcome of a row of `check_results`; `data_version` is that of the rows that the table has now, if known."""
    if data_version is not None and result["data_version"] != data_version:
        return Outcome.earlier_rows
    if result["value"] is None:
        return Outcome.not_measured
    if result["passed"]:
        return Outcome.passed
    return Outcome.warned if result["severity"] == "WARN" else Outcome.failed


def result_of(row: Mapping[str, Any], data_version: str | None = None) -> LatestResult:
    """A row of `check_results`, read."""
    return LatestResult(
        table=row["table_name"],
        check=row["check_name"],
        version=row["constitution_version"],
        outcome=outcome_of(row, data_version),
        value=row["value"],
        estimate=row["estimate"],
        bounds=row["bounds"],
        rows=row["rows"],
        checked_at=row["checked_at"].isoformat(timespec="seconds") + "+00:00",
    )


def limits_in(bounds: str) -> list[float]:
    """The numbers in bounds as `CheckSettings.bounds` words them."""
    return [float(number) for number in _LIMIT.findall(bounds)]
