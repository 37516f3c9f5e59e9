"""Rows whose partner is gone: a table was made anew after another had been made of it.

A join would leave them out without a word. Whoever joins tables sets them aside first, with what to do.
"""

from collections.abc import Mapping

from cai_dagster.errors import RowError
from cai_dagster.lake.queries import Rows
from cai_dagster.lake.snapshot_tables import SnapshotTables
from cai_dagster.lake.staging import StagedRows
from cai_dagster.tables.registry import TABLES, Reference, references_among


class NoPartnerError(RowError):
    """The row that this row was made of is not there any more."""

    code = "no_partner"


def reject_without_partner(lake: SnapshotTables, tables: Mapping[str, Rows], staged: StagedRows) -> int:
    """Set aside the rows of these tables whose partner in another of them is gone, each once; how many."""
    rejected: set[str] = set()
    for reference in references_among(tables):
        query = f"FROM {reference.table} t WHERE NOT {_has_partner(reference)} ORDER BY ALL"
        both = {name: tables[name] for name in (reference.table, reference.partner)}
        for row in lake.stream(query, **both):
            key = [str(row[name]) for name in TABLES[reference.table].key if name != "constitution_version"]
            row_id = f"{reference.table}/{'/'.join(key)}"
            if row_id not in rejected:
                rejected.add(row_id)
                staged.reject(row_id, str(NoPartnerError(_reason(reference, row))), row)
    return len(rejected)


def _has_partner(reference: Reference) -> str:
    """SQL for whether a row of the table `t` has its partner."""
    if set(reference.columns) == set(reference.columns.values()):
        same = " AND ".join(f"p.{key} = t.{column}" for column, key in reference.columns.items())
        return f"EXISTS (SELECT 1 FROM {reference.partner} p WHERE {same})"
    ((column, key),) = reference.columns.items()
    return f"list_has_all((SELECT list({key}) FROM {reference.partner}), t.{column})"


def _reason(reference: Reference, row: Mapping[str, object]) -> str:
    missing = ", ".join(f"{column} {row[column]}" for column in reference.columns)
    return (
        f"{reference.partner} has no row with {missing}: it was made anew after {reference.table}; "
        f"materialize {reference.table} again"
    )
