"""Two constitution versions as they are in the lake, read and compared.

It only reads. What was never made is absent, which is not the same as empty.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from cai_dagster.compare.compared_rows import ComparedRows
from cai_dagster.compare.diff import ConstitutionDiff, compare_versions
from cai_dagster.compare.settings import ConstitutionDiffSettings
from cai_dagster.compare.version import COMPARED, MEASURED, VersionTables
from cai_dagster.constitution.constitution import Constitution, load_constitution
from cai_dagster.errors import MendableError
from cai_dagster.lake.connection import literal
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.newest import in_commit_order, newest_check_results
from cai_dagster.lake.snapshots import FORGET_RUN, TableSnapshot
from cai_dagster.tables.registry import TABLES

ROWS_AT_ONCE = 20_000  # of both versions: so many texts are in memory

_CHECKS = f"FROM ({newest_check_results('constitution_version = $version')}) ORDER BY table_name, check_name"
_COUNTED = (
    "constitution_version = $version AND table_name NOT IN ('cost_plan', 'version_judgements', 'constitution_diff') "
    f"AND run_id <> '{FORGET_RUN}'"
)
_COMPARED_BY = {
    column: [table for table in COMPARED if column in TABLES[table].key] for column in ("prompt_id", "pair_id")
}
"""The tables of COMPARED by the id that rows of both versions share."""


class VersionsError(MendableError):
    """The versions cannot be compared; the message says why."""


def diff_versions(
    lake: Lake, before: str, after: str, constitutions: Path, settings: ConstitutionDiffSettings
) -> ConstitutionDiff:
    """What `after` changed against `before`, as far as either has been made.

    Raises VersionsError where they are the same, ConstitutionError where a version is nowhere.
    """
    old, new = constitutions_to_compare(lake, before, after, constitutions)
    rows = _compared_rows(lake, old, new, settings.examples)
    one, other = (read_version(lake, constitution) for constitution in (old, new))
    return compare_versions(one, other, rows, partial(_prompt_texts, lake), settings)


def _compared_rows(lake: Lake, old: Constitution, new: Constitution, examples: int) -> ComparedRows:
    made = {table: _made_of(lake, table, (old.version, new.version)) for table in (*COMPARED, "version_judgements")}
    sides = ("before", "after")
    before, after = ([table for table, found in made.items() if side in found] for side in sides)
    rows = ComparedRows(old, new, (before, after), examples)
    for column, tables in _COMPARED_BY.items():
        read = {f"{table}_{side}": rows_of for table in tables for side, rows_of in made[table].items()}
        ids = " UNION ALL ".join(f"SELECT {column} FROM {name}" for name in read)
        selects = {"ids": ids, **{name: f"FROM {name}" for name in read}}
        for part in lake.parts(column, ROWS_AT_ONCE, selects, **read) if read else ():
            of_sides = ({table: part[f"{table}_{side}"] for table in tables if side in made[table]} for side in sides)
            rows.add(*of_sides)
    return rows


def _made_of(lake: Lake, table: str, versions: tuple[str, str]) -> dict[str, TableSnapshot]:
    """A table of the version before and of the one after, as far as they have been made."""
    both = zip(("before", "after"), versions, strict=True)
    return {side: lake.snapshot(table, version) for side, version in both if lake.materialized(table, version)}


def _prompt_texts(lake: Lake, ids: Sequence[str]) -> dict[str, str]:
    if not ids or not lake.materialized("prompts"):
        return {}
    wanted = ", ".join(map(literal, sorted(set(ids))))
    last = "SELECT prompt_id, messages[-1].content FROM prompts"
    return dict(lake.query(f"{last} WHERE prompt_id IN ({wanted})", prompts=lake.snapshot("prompts")).iter_rows())


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
    present = [table for table in MEASURED if lake.materialized(table, version)]
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
