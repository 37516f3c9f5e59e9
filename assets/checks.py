"""The data-quality checks on the graph: what `checks.measurements` measures, against the bounds in settings.toml.

All checks of a table are one op, which reads the table once. Each constitution version has its own history, here and
in the table check_results. A failed check of severity ERROR stops what depends on its table, for that version and in
that run.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.common.partitions import constitution_versions
from cai_dagster.checks.declarations import CHECKS, Check
from cai_dagster.checks.settings import CheckSettings, Severity
from cai_dagster.lake.newest import in_commit_order
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import TABLES
from resources.lake import LakeResource, RunTables

if TYPE_CHECKING:
    from cai_dagster.checks.measurement import Measurement

# Partitioned asset checks are a preview of Dagster 1.13; tests/graph/test_dagster_behaviour.py pins what we rely on.
warnings.filterwarnings("ignore", message=".*partitions_def.*", category=dg.PreviewWarning)

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
    checks = [check for check in CHECKS if check.table == table]

    @dg.multi_asset_check(name=f"{table}_checks", specs=[_spec(check) for check in checks], can_subset=True)
    def measure(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
        version = context.partition_key if TABLES[table].versioned else None
        store = lake.open()
        read = RunTables.of(context.instance, context.run.run_id)
        snapshot = read.snapshot(table, version)
        data_version = store.data_version_of(snapshot)
        selected = {key.name for key in context.selected_asset_check_keys}
        results: list[dg.AssetCheckResult] = []
        rows: list[dict[str, Any]] = []
        for check, measured in _measure(read, snapshot, data_version, checks):
            if check.name not in selected:
                continue
            settings = active_settings().checks.of(check.name).bound_of(table, version)
            passed = measured.value is None or settings.passes(measured.value)
            results.append(_result(check, settings, measured, passed, version))
            rows.append(
                {
                    "table_name": table,
                    "constitution_version": version,
                    "check_name": check.name,
                    "run_id": context.run.run_id,
                    "checked_at": datetime.now(UTC).replace(tzinfo=None),
                    "passed": passed,
                    "severity": settings.severity.value,
                    "value": measured.value,
                    "bounds": settings.bounds,
                    "rows": measured.rows,
                    "data_version": data_version,
                }
            )
        store.append("check_results", *rows)
        yield from results

    return measure


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
            data_version=data_version,
            history=store.select(in_commit_order("check_results", "table_name = $table"), {"table": table}),
            measured=measured,
        )
        for check in checks:
            measured[check.name] = getattr(measurements, check.name)(tables)
            yield check, measured[check.name]


def _result(
    check: Check, settings: CheckSettings, measured: "Measurement", passed: bool, version: str | None
) -> dg.AssetCheckResult:
    where = f" of constitution version {version}" if version else ""
    found = "nothing to measure"
    if measured.value is not None:
        found = f"measured {measured.value:.4g} over {measured.rows:,}"
    verdict = f"{check.table}{where}: {found}; bound: {settings.bounds}."
    metadata: dict[str, Any] = {"rows": measured.rows, "bound": settings.bounds}
    if measured.value is not None:
        metadata["value"] = measured.value
    if measured.examples:
        metadata["examples"] = dg.MetadataValue.table(_records(measured.examples))
    return dg.AssetCheckResult(
        asset_key=check.table,
        check_name=check.name,
        passed=passed,
        severity=dg.AssetCheckSeverity[settings.severity],
        description=verdict if passed else f"{verdict} {check.advice}",
        metadata=metadata,
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
