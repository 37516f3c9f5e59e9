"""Two constitution versions as they are in the lake, read and compared.

It only reads. What was never made is absent, which is not the same as empty.
"""

from pathlib import Path
from typing import Any

import polars as pl

from cai_dagster.compare.diff import ConstitutionDiff, compare_versions
from cai_dagster.compare.settings import ConstitutionDiffSettings
from cai_dagster.compare.version import COMPARED, MEASURED, VersionTables
from cai_dagster.constitution.constitution import Constitution, load_constitution
from cai_dagster.errors import MendableError
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.newest import in_commit_order, newest_check_results
from cai_dagster.lake.snapshots import FORGET_RUN
from cai_dagster.tables.registry import TABLES

_CHECKS = f"FROM ({newest_check_results('constitution_version = $version')}) ORDER BY table_name, check_name"
_COUNTED = (
    "constitution_version = $version AND table_name NOT IN ('cost_plan', 'version_judgements', 'constitution_diff') "
    f"AND run_id <> '{FORGET_RUN}'"
)


class VersionsError(MendableError):
    """The versions cannot be compared; the message says why."""


def diff_versions(
    lake: Lake, before: str, after: str, constitutions: Path, settings: ConstitutionDiffSettings
) -> ConstitutionDiff:
    """What `after` changed against `before`, as far as either has been made.

    Raises VersionsError where they are the same, ConstitutionError where a version is nowhere.
    """
    one, other = (
        read_version(lake, constitution)
        for constitution in constitutions_to_compare(lake, before, after, constitutions)
    )
    made = lake.materialized("prompts")
    prompts = lake.snapshot("prompts").frame() if made else TABLES["prompts"].schema.to_frame()
    return compare_versions(one, other, prompts, settings)


def constitutions_to_compare(lake: Lake, before: str, after: str, constitutions: Path) -> list[Constitution]:
    """Both versions' principles: from the lake, or from their file where the lake has none of a version yet.

    Raises VersionsError where they are the same, ConstitutionError where a version is nowhere.
    """
    refuse_the_same(before, after)
    return [
        Constitution.from_rows(lake.snapshot("constitution", version).frame().to_dicts())
        if lake.materialized("constitution", version)
        else load_constitution(constitutions / f"{version}.yaml")
        for version in (before, after)
    ]


def refuse_the_same(before: str, after: str) -> None:
    """Raise VersionsError where a version would be compared with itself."""
    if before == after:
        raise VersionsError(f"{before} and {after} are the same version; name two")


def read_version(lake: Lake, constitution: Constitution) -> VersionTables:
    """What there is in the lake of the version whose constitution it is."""
    version = constitution.version
    present = [table for table in (*COMPARED, *MEASURED) if lake.materialized(table, version)]
    return VersionTables(
        version,
        constitution,
        {table: lake.snapshot(table, version).frame() for table in present},
        checks=lake.select(_CHECKS, {"version": version}).to_dicts(),
        costs=_costs(lake.select(in_commit_order("materializations", _COUNTED), {"version": version})),
    )


def _costs(accounts: pl.DataFrame) -> list[dict[str, Any]]:
    """What each table has cost in all its materializations; `calls_found` are those of the last."""
    tokens = pl.col("prompt_tokens") + pl.col("completion_tokens")
    costs = accounts.group_by("table_name", maintain_order=True).agg(
        pl.col("ledger_misses").sum().alias("calls_paid"),
        pl.col("ledger_hits").last().alias("calls_found"),
        tokens.sum().alias("tokens"),
        pl.col("seconds").sum(),
    )
    return costs.to_dicts()
