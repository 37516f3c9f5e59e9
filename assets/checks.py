"""The data-quality checks on the graph: what `checks.measurements` measures, against the bounds in settings.toml.

All checks of a table are one op, which reads the table once. Each constitution version has its own history, here and
in the table check_results. A failed check of severity ERROR stops what depends on its table, for that version and in
that run. A run without a partition looks at every version there is.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.common.partitions import constitution_versions
from cai_dagster.checks.declarations import CHECKS, Check
from cai_dagster.checks.outcomes import measured, outcome_of
from cai_dagster.checks.settings import CheckSettings, Severity
from cai_dagster.constitution.bases import bases_of
from cai_dagster.constitution.versions import natural_order
from cai_dagster.lake.newest import in_commit_order
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.project import CONSTITUTIONS
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import TABLES
from resources.lake import LakeResource, RunTables

if TYPE_CHECKING:
    from cai_dagster.checks.measurement import Measurement

# Partitioned asset checks are a preview of Dagster 1.13; tests/graph/test_dagster_behaviour.py pins what we rely on.
warnings.filterwarnings("ignore", message=".*partitions_def.*", category=dg.PreviewWarning)

_CheckEvent = dg.AssetCheckResult | dg.AssetCheckEvaluation | dg.Output[None]
_TABLES = tuple(dict.fromkeys(check.table for check in CHECKS))


def _spec(check: Check) -> dg.AssetCheckSpec:
    checks = active_settings().checks.of(check.name)
    severities = {checks.bound_of(check.table, version).severity for version in (None, *checks.versions)}
    unversioned = not TABLES[check.table].versioned
    bounds = checks.bound_of(check.table).summary if unversioned else checks.summary_of(check.table)
    return dg.AssetCheckSpec(
        check.name,
        asset=check.table,
        description=f"{check.description} Bound: {bounds}. {check.advice}",
        blocking=Severity.ERROR in severities,  # automation waits for every blocking check, whatever its severity
        partitions_def=None if unversioned else constitution_versions,
    )


def _checks_of(table: str) -> dg.AssetChecksDefinition:
    specs = {check: _spec(check) for check in CHECKS if check.table == table}

    @dg.multi_asset_check(name=f"{table}_checks", specs=[*specs.values()], can_subset=True)
    def measure(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterator[_CheckEvent]:
        read = RunTables.of(context.instance, context.run.run_id)
        selected = {key.name for key in context.selected_asset_check_keys}
        one = context.has_partition_key or not TABLES[table].versioned
        versions = [context.partition_key if TABLES[table].versioned else None] if one else _versions(read, table)
        results = [result for version in versions for result in _results(read, table, version, selected)]
        lake.open().append("check_results", *(result.row for result in results))
        for observation in _observations(table, results):
            context.instance.report_runless_asset_event(observation)
        if one:
            yield from (dg.AssetCheckResult(**_fields(result)) for result in results)
            return
        for result in results:  # each into the history of its version
            evaluation = dg.AssetCheckEvaluation(**_fields(result), partition=result.version)
            context.instance.report_runless_asset_event(evaluation)
        for check, spec in specs.items():
            if of_check := [result for result in results if result.check is check]:
                # An AssetCheckResult would have Dagster look for the materialization of this run's partition.
                yield dg.Output(None, output_name=spec.get_python_identifier())
                yield _over_versions(of_check, spec.blocking)

    return measure


@dataclass(frozen=True)
class _Result:
    """What a check found of one version, with the bound that it is held to."""

    check: Check
    version: str | None
    settings: CheckSettings
    measured: "Measurement"
    row: dict[str, Any]
    """As in the table check_results."""

    @property
    def passed(self) -> bool:
        return self.row["passed"]

    @property
    def found(self) -> str:
        """In words, with the bound."""
        if self.measured.value is None:
            return f"not measured: nothing to measure; bound: {self.settings.bounds}"
        value = measured(self.measured.value, self.measured.estimate)
        return f"measured {value} over {self.measured.rows:,}; bound: {self.settings.bounds}"


def _observations(table: str, results: Sequence[_Result]) -> Iterator[dg.AssetObservation]:
    """What was measured of each version, by check: so it is among the asset's events, beside its other numbers."""
    measured_of: dict[str | None, dict[str, float]] = {}
    for one in results:
        if one.measured.value is not None:
            measured_of.setdefault(one.version, {})[one.check.name] = one.measured.value
    for version, values in measured_of.items():
        yield dg.AssetObservation(table, partition=version, metadata=values)


def _versions(read: RunTables, table: str) -> list[str]:
    """The versions of a table that the run reads."""
    query = "SELECT DISTINCT constitution_version FROM lake.materializations WHERE table_name = $table"
    versions = read.lake.select(query, {"table": table}).to_series()
    return sorted((version for version in versions if read.find(table, version)), key=natural_order)


def _results(read: RunTables, table: str, version: str | None, selected: Set[str]) -> list[_Result]:
    """What the selected checks of a table find of one version."""
    checks = [check for check in CHECKS if check.table == table]
    snapshot = read.snapshot(table, version)
    data_version = read.lake.data_version_of(snapshot)
    results: list[_Result] = []
    for check, found in _measure(read, snapshot, data_version, checks):
        if check.name not in selected:
            continue
        settings = active_settings().checks.of(check.name).bound_of(table, version)
        row = {
            "table_name": table,
            "constitution_version": version,
            "check_name": check.name,
            "run_id": read.run_id,
            "checked_at": datetime.now(UTC).replace(tzinfo=None),
            "passed": found.value is None or settings.passes(found.value),
            "severity": settings.severity.value,
            "value": found.value,
            "estimate": found.estimate,
            "bounds": settings.bounds,
            "rows": found.rows,
            "data_version": data_version,
        }
        results.append(_Result(check, version, settings, found, row))
    return results


def _measure(
    read: RunTables, snapshot: TableSnapshot, data_version: str, checks: list[Check]
) -> Iterator[tuple[Check, "Measurement"]]:
    """What each check measures, in order: one may look at what those before it found."""
    from cai_dagster.checks import measurements
    from cai_dagster.checks.measurement import Tables

    store, table, version = read.lake, snapshot.table, snapshot.constitution_version
    measured: dict[str, Measurement] = {}
    with ExitStack() as copies:
        others = {name for check in checks for name in check.also}
        tables = Tables(
            rows=copies.enter_context(store.scan(snapshot)),
            rejected=store.rejected(table, version),
            others={name: copies.enter_context(store.scan(read.snapshot(name, version))) for name in sorted(others)},
            constitution_version=version,
            bases=bases_of(CONSTITUTIONS, version) if version else (),
            data_version=data_version,
            history=store.select(in_commit_order("check_results", "table_name = $table"), {"table": table}),
            measured=measured,
        )
        for check in checks:
            measured[check.name] = getattr(measurements, check.name)(tables)
            yield check, measured[check.name]


def _fields(result: _Result) -> dict[str, Any]:
    """What Dagster's events of a check's result have in common."""
    return {
        "asset_key": dg.AssetKey(result.check.table),
        "check_name": result.check.name,
        "passed": result.passed,
        "severity": dg.AssetCheckSeverity[result.settings.severity],
        "description": _description(result),
        "metadata": _metadata(result),
    }


def _description(result: _Result) -> str:
    where = f" of constitution version {result.version}" if result.version else ""
    verdict = f"{result.check.table}{where}: {result.found}."
    return verdict if result.passed else f"{verdict} {result.check.advice}"


def _metadata(result: _Result) -> dict[str, Any]:
    found = result.measured
    metadata: dict[str, Any] = {"rows": found.rows, "bound": result.settings.bounds}
    if found.value is not None:
        metadata["value"] = found.value
    if found.estimate is not None:
        metadata["estimate"] = found.estimate
    if found.examples:
        metadata["examples"] = dg.MetadataValue.table(_records(found.examples))
    return metadata


def _over_versions(results: Sequence[_Result], blocking: bool) -> dg.AssetCheckEvaluation:
    """A check of all versions in one result: as bad as the worst of them, which the description names."""
    check = results[0].check
    failed = [result for result in results if not result.passed]
    errors = [result for result in failed if result.settings.severity == Severity.ERROR]
    told = "; ".join(f"{result.version}: {result.found}" for result in failed or results)
    verdict = f"{check.table}, {len(failed)} of {len(results)} versions beyond the bound: {told}."
    versions = [
        dg.TableRecord(
            {
                "version": str(result.version),
                "found": result.found,
                "result": outcome_of(result.row).value,
                "rows": result.measured.rows,
            }
        )
        for result in results
    ]
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(check.table),
        check_name=check.name,
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if errors else dg.AssetCheckSeverity.WARN,
        description=f"{verdict} {check.advice}" if failed else verdict,
        metadata={"versions": dg.MetadataValue.table(versions)},
        blocking=blocking,
    )


def _records(examples: Sequence[Mapping[str, Any]]) -> list[dg.TableRecord]:
    """A line for each row: all that is short in one column, so that the UI has room for the texts beside it."""
    texts = [name for name in examples[0] if any(" " in str(example[name]) for example in examples)]
    return [
        dg.TableRecord(
            {
                "row": ", ".join(f"{name} {_short(value)}" for name, value in example.items() if name not in texts),
                **{name: "" if example[name] is None else str(example[name]) for name in texts},
            }
        )
        for example in examples
    ]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


asset_checks = [_checks_of(table) for table in _TABLES]
