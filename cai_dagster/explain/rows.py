"""Which rows of each table have to do with a prompt, a pair or a principle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cai_dagster.tables.registry import TABLES, graph
from cai_dagster.tables.table import Table

PREFERENCE_SPLIT = "t.split = 'preference'"
_UNDER = "list_has_any(t.principle_ids, [$ids])"
_THROUGH_OTHERS = {
    "sft_dataset": """EXISTS (FROM {revision_rounds} r WHERE r.constitution_version = t.constitution_version
        AND r.prompt_id = t.prompt_id AND r.sample = t.sample AND r.round <= t.round AND r.principle_id IN ($ids))""",
    "preference_pairs": """EXISTS (FROM {judgements} j WHERE j.constitution_version = t.constitution_version
        AND j.pair_id = t.pair_id AND list_has_any(j.principle_ids, [$ids]))""",
}
"""Of tables that name no principle: rows revised under one of `$ids` in their round or before, or judged under one."""
_OF_REVISIONS_BY_PROMPT = """t.source = 'revisions' AND (t.constitution_version, t.prompt_id) IN (
    SELECT (r.constitution_version, r.prompt_id) FROM {revision_rounds} r WHERE r.principle_id IN ($ids))"""
_OF_REVISIONS_BY_SAMPLE = """t.source = 'revisions' AND (t.constitution_version, t.pair_id) IN (
    SELECT (p.constitution_version, p.pair_id) FROM {response_pairs} p JOIN {revision_rounds} last
        ON last.constitution_version = p.constitution_version AND last.revision_request_id = p.request_id_1
    JOIN {revision_rounds} r ON r.constitution_version = last.constitution_version
        AND r.prompt_id = last.prompt_id AND r.sample = last.sample AND r.round <= last.round
    WHERE p.source = 'revisions' AND r.principle_id IN ($ids))"""
_MADE_UNDER_PRINCIPLE = {
    by: {
        "response_pairs": of_revisions,
        "preference_pairs": f"({_THROUGH_OTHERS['preference_pairs']} OR {of_revisions})",
    }
    for by, of_revisions in (("prompt", _OF_REVISIONS_BY_PROMPT), ("sample", _OF_REVISIONS_BY_SAMPLE))
}
"""The same where pairs are made of revisions: one of the two completions was written under a principle.

Of a single sample a prompt says which; of several only the call does, and in a million rows that takes seconds.
"""


def tables_of_pairs() -> list[str]:
    """The names of the tables in which pairs of a prompt's completions begin; others copy their ids."""
    return [
        table.name
        for table in graph()
        if table.has("prompt_id", "pair_id")
        and not any(source.endswith(".pair_id") for source in table.column("pair_id").sources)
    ]


def _under_principle(table: Table) -> str | None:
    """SQL for the rows that have to do with the principles `$ids`; None where a table has none."""
    if table.has("principle_ids"):
        return _UNDER
    return "t.principle_id IN ($ids)" if table.has("principle_id") else _THROUGH_OTHERS.get(table.name)


@dataclass(frozen=True)
class TableRows:
    """The rows of one table (`t`) that fulfil a condition; tables in the condition are named in braces."""

    table: str
    condition: str = "true"

    def and_also(self, condition: str) -> "TableRows":
        """Those of them that fulfil another condition too."""
        return TableRows(self.table, f"{self.condition} AND {condition}")

    @property
    def tables(self) -> list[str]:
        """Every table that is read."""
        return [self.table, *(name for name in TABLES if f"{{{name}}}" in self.condition)]

    def select(self, what: str, tables: Mapping[str, str] | None = None) -> str:
        """SQL that reads each table from what `tables` says in its place: from the lake as it is, without it."""
        places = tables or {name: f"lake.{name}" for name in self.tables}
        return f"SELECT {what} FROM {places[self.table]} t WHERE {self.condition.format_map(places)}"


@dataclass(frozen=True)
class RowFilter:
    """What keeps the rows of a prompt, a pair or principles: `ids` are theirs, `pair_ids` those of a prompt's pairs.

    `through_revisions`: what was written under a principle is looked for in pairs, where some are made of revisions.
    """

    kind: Literal["prompt", "pair", "principle"]
    ids: Sequence[str]
    pair_ids: Sequence[str] = ()
    through_revisions: Literal["prompt", "sample"] | None = None

    def applied_to(self, rows: TableRows) -> TableRows | None:
        """Those of the rows that the filter keeps; None where the table can have none."""
        table = TABLES[rows.table]
        if self.kind == "principle":
            through = _MADE_UNDER_PRINCIPLE[self.through_revisions] if self.through_revisions else {}
            under = through.get(table.name) or _under_principle(table)
            return rows.and_also(under) if under else None
        if self.kind == "prompt" and table.has("prompt_id"):
            return rows.and_also("t.prompt_id IN ($ids)")
        if table.has("pair_id"):
            return rows.and_also(f"t.pair_id IN ({'$pair_ids' if self.kind == 'prompt' else '$ids'})")
        return None

    @property
    def parameters(self) -> dict[str, Sequence[str]]:
        """What stands for the parameters in the SQL of `applied_to`."""
        return {"ids": self.ids, "pair_ids": self.pair_ids}

    def example(self, table: str) -> str:
        """SQL of an id in a table's rows that is not one of the filter's own."""
        if self.kind != "pair" and TABLES[table].has("pair_id"):
            return "min(t.pair_id)"
        return "min(t.prompt_id)" if self.kind == "principle" and TABLES[table].has("prompt_id") else "NULL"


@dataclass(frozen=True)
class RowCount:
    """Rows of a table (of one version) that have to do with something, and the snapshot that wrote them.

    `example` is an id to trace next.
    """

    table: str
    constitution_version: str | None
    rows: int
    snapshot: int
    example: str | None = None


def is_versioned(table: str) -> bool:
    """Whether a table's rows belong to a constitution version."""
    return TABLES[table].versioned
