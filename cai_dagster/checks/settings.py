"""Settings of the data-quality checks: bounds and severity, by table and constitution version."""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from cai_dagster.checks.declarations import CHECKS
from cai_dagster.strict_model import StrictModel

LISTED_VERSIONS = 5  # of many with bounds of their own, so many are told


class Severity(StrEnum):
    """What a failed check does."""

    ERROR = "ERROR"
    WARN = "WARN"


class _Bounds(StrictModel):
    above: float | None = Field(default=None, allow_inf_nan=False)
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    at_most: float | None = Field(default=None, allow_inf_nan=False)


class CheckOverride(_Bounds):
    """What is otherwise for one table or one constitution version; what it does not name stays."""

    severity: Severity | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "CheckOverride":
        if not self.model_fields_set:
            raise ValueError("changes nothing; give it a bound (above, at_least, at_most) or a severity, or remove it")
        return self


class CheckSettings(_Bounds):
    """The bounds of one check and what happens beyond them."""

    severity: Severity = Field(description="ERROR stops what depends on the table; WARN does not.")
    tables: dict[str, CheckOverride] = Field(default={}, description="Other bounds for one of the check's tables.")
    versions: dict[str, CheckOverride] = Field(
        default={}, description="Other bounds for a constitution version. Where a table has its own too, these count."
    )

    @model_validator(mode="after")
    def _leave_room(self) -> "CheckSettings":
        if self.above is self.at_least is self.at_most is None:
            raise ValueError("has no bound (above, at_least, at_most), so that it could never fail")
        for table in ("", *self.tables):
            for version in (None, *self.versions):
                self.bound_of(table, version).refuse_contradiction(" and ".join(filter(None, (table, version))))
        return self

    def bound_of(self, table: str, version: str | None = None) -> "CheckSettings":
        """What counts for one table and version: the check's own settings, below the table's, below the version's."""
        changed: dict[str, Any] = {"tables": {}, "versions": {}}
        for override in (self.tables.get(table), self.versions.get(version or "")):
            changed |= override.model_dump(exclude_unset=True) if override else {}
        return self.model_copy(update=changed)

    def summary_of(self, table: str) -> str:
        """The bounds and severity for a table, and those of the versions that have others."""
        usual = self.bound_of(table).summary
        others = {version: self.bound_of(table, version).summary for version in self.versions}
        told = [f"of {version} {own}" for version, own in others.items() if own != usual]
        more = [f"of {len(told) - LISTED_VERSIONS:,} more versions others"] if len(told) > LISTED_VERSIONS else []
        return "; ".join([usual, *told[:LISTED_VERSIONS], *more])

    @property
    def summary(self) -> str:
        """`at most 0.05 (WARN)`"""
        return f"{self.bounds} ({self.severity})"

    def refuse_contradiction(self, where: str) -> None:
        """Raise ValueError when no value can lie within the bounds."""
        if self.at_most is not None and not self.passes(self.at_most):
            raise ValueError(f"{where + ': ' if where else ''}nothing is {self.bounds}")

    def passes(self, value: float) -> bool:
        """Whether a measured value lies within the bounds."""
        high_enough = (self.at_least is None or value >= self.at_least) and (self.above is None or value > self.above)
        return high_enough and (self.at_most is None or value <= self.at_most)

    @property
    def bounds(self) -> str:
        """`at least 0.67, at most 1.5`"""
        above = [] if self.above is None else [f"above {self.above:g}"]
        least = [] if self.at_least is None else [f"at least {self.at_least:g}"]
        most = [] if self.at_most is None else [f"at most {self.at_most:g}"]
        return ", ".join(above + least + most)


class ChecksSettings(StrictModel):
    """All checks; what each measures is in `checks`."""

    rejected_share: CheckSettings
    unfinished_completions: CheckSettings
    unchanged_revisions: CheckSettings
    principle_coverage: CheckSettings
    refusals: CheckSettings
    repetition: CheckSettings
    shared_phrase: CheckSettings
    near_duplicates: CheckSettings
    language_change: CheckSettings
    identical_pairs: CheckSettings
    missing_judgements: CheckSettings
    label_mass: CheckSettings
    position_bias: CheckSettings
    undecided_pairs: CheckSettings
    judge_agreement: CheckSettings
    length_ratio: CheckSettings
    reward_accuracy: CheckSettings
    reward_over_length: CheckSettings
    reward_length_correlation: CheckSettings
    drift: CheckSettings

    def of(self, check: str) -> CheckSettings:
        """Those of one check, by its name."""
        return getattr(self, check)

    def misplaced(self, versions: Callable[[], Sequence[str]]) -> Iterator[tuple[str, str]]:
        """Overrides for a table that the check is not on or a version that is not there: where, and what is wrong."""
        for name in type(self).model_fields:
            settings, tables = self.of(name), [check.table for check in CHECKS if check.name == name]
            for table in settings.tables:
                if table not in tables:
                    yield f"{name}.tables.{table}", f"the check is not on this table, but on {', '.join(tables)}"
            for version in settings.versions:
                if version not in (known := versions()):
                    yield f"{name}.versions.{version}", f"there is no such constitution; there are {', '.join(known)}"
