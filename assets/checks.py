"""The data-quality checks on the graph: what `cai_dagster.measurements` measures, against the bounds in settings.toml.

Each constitution version has its own history. A failed check of severity ERROR stops what depends on its table, for
that version and in that run.
"""

import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.partitions import constitution_versions
from cai_dagster.checks import CHECKS, Check
from cai_dagster.settings import CheckSettings, active_settings
from cai_dagster.snapshots import TableSnapshot
from resources.lake import LakeResource

if TYPE_CHECKING:
    from cai_dagster.lake import Lake
    from cai_dagster.measurements import Measurement, Tables

# Partitioned asset checks are a preview of Dagster 1.13; tests/unit/test_dagster_behaviour.py pins what we rely on.
warnings.filterwarnings("ignore", message=".*partitions_def.*", category=dg.PreviewWarning)

_UNVERSIONED = ("prompts", "initial_responses")


def _asset_check(check: Check, settings: CheckSettings) -> dg.AssetChecksDefinition:
    versioned = check.table not in _UNVERSIONED

    @dg.asset_check(
        asset=check.table,
        name=check.name,
        description=f"{check.description} Bound: {settings.bounds} ({settings.severity}). {check.advice}",
        blocking=True,
        partitions_def=constitution_versions if versioned else None,
    )
    def measure(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        from cai_dagster import measurements

        version = context.partition_key if versioned else None
        store = lake.open()
        rows = store.snapshot(check.table, version)
        measured = getattr(measurements, check.name)(_tables(store, rows))
        passed = measured.value is None or settings.passes(measured.value)
        result = {
            "table_name": check.table,
            "constitution_version": version,
            "check_name": check.name,
            "run_id": context.run.run_id,
            "checked_at": datetime.now(UTC).replace(tzinfo=None),
            "passed": passed,
            "severity": settings.severity.value,
            "value": measured.value,
            "bounds": settings.bounds,
            "rows": measured.rows,
            "data_version": store.data_version_of(rows),
        }
        store.append("check_results", result)
        return _result(check, settings, measured, version)

    return measure


def _tables(store: "Lake", snapshot: TableSnapshot) -> "Tables":
    from cai_dagster.measurements import Tables

    version, rows = snapshot.constitution_version, snapshot.frame()
    principles = store.snapshot("constitution", version).frame() if version else rows.clear()
    return Tables(rows, store.rejected(snapshot.table, version), principles)


def _result(check: Check, settings: CheckSettings, measured: "Measurement", version: str | None) -> dg.AssetCheckResult:
    passed = measured.value is None or settings.passes(measured.value)
    where = f" of constitution version {version}" if version else ""
    value = "there is nothing to measure" if measured.value is None else f"measured {measured.value:.4g}"
    verdict = f"{check.table}{where}: {value} over {measured.rows:,}; bound: {settings.bounds}."
    metadata: dict[str, Any] = {"rows": measured.rows, "bound": settings.bounds, "examples": measured.examples}
    if measured.value is not None:
        metadata["value"] = measured.value
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity[settings.severity],
        description=verdict if passed else f"{verdict} {check.advice}",
        metadata=metadata,
    )


asset_checks = [_asset_check(check, getattr(active_settings().checks, check.name)) for check in CHECKS]
