"""The data-quality checks on the graph: what `cai_dagster.checks` measures, against the bounds in settings.toml.

Each constitution version has its own history. A failed check of severity ERROR stops what depends on its table, for
that version and in that run.
"""

import warnings
from typing import Any

import dagster as dg

from assets.partitions import constitution_versions
from cai_dagster.checks import CHECKS, Check, Tables
from cai_dagster.settings import CheckSettings, active_settings
from resources.lake import LakeResource

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
        version = context.partition_key if versioned else None
        return _result(check, settings, check.measure(_tables(lake, check.table, version)), version)

    return measure


def _tables(lake: LakeResource, table: str, version: str | None) -> Tables:
    store = lake.open()
    rows = store.snapshot(table, version)
    principles = store.snapshot("constitution", version).frame() if version else rows.frame().clear()
    return Tables(rows.frame(), store.rejected(table, version), principles)


def _result(check: Check, settings: CheckSettings, measured: Any, version: str | None) -> dg.AssetCheckResult:
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
