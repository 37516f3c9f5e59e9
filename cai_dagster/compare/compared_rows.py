"""What became of the rows of two versions: added up of some rows at a time, so that memory does not grow with them."""

from collections import Counter
from collections.abc import Collection, Mapping

import polars as pl

from cai_dagster.compare.completions import CompletionRows, completion_rows
from cai_dagster.compare.labels import LABELLED, LabelRows, label_rows, revision_pairs
from cai_dagster.compare.principles import slugs_of
from cai_dagster.compare.rows import TableChange, table_change
from cai_dagster.compare.version import COMPARED, PRINCIPLES_OF
from cai_dagster.constitution.constitution import Constitution
from cai_dagster.tables.registry import TABLES

Tables = Mapping[str, pl.DataFrame]


class ComparedRows:
    """The rows of two versions, as far as they were added.

    `made` are the tables that there are of the version before, and of the one after. What is added is all that both
    have of some prompts, or of some pairs, in the order of their ids.
    """

    def __init__(
        self, old: Constitution, new: Constitution, made: tuple[Collection[str], Collection[str]], examples: int
    ) -> None:
        self.made = made
        self._slugs, self._examples = slugs_of(old) | slugs_of(new), examples
        nothing = [{name: TABLES[name].schema.to_frame() for name in COMPARED if name in tables} for tables in made]
        self.tables: dict[str, TableChange] = {}
        self.principles = tuple({table: Counter[str]() for table in PRINCIPLES_OF if table in one} for one in nothing)
        self.completions: CompletionRows | None = None
        self.labels: LabelRows | None = None
        self.revision_pairs: list[pl.DataFrame] = []
        self.add(nothing[0], nothing[1])

    def add(self, before: Tables, after: Tables) -> None:
        """Add rows of both versions; of each table that the versions have, or of some of these tables."""
        for table in COMPARED:
            if table in before or table in after:
                change = table_change(table, before.get(table), after.get(table))
                self.tables[table] = change.plus(self.tables.get(table))
        for principles, tables in zip(self.principles, (before, after), strict=True):
            for table, counted in principles.items():
                if table in tables:
                    counted.update(_counts(tables[table], table))
        if "revision_rounds" in before and "revision_rounds" in after:
            self._add_revisions(before["revision_rounds"], after["revision_rounds"])
        if all(table in tables for table in LABELLED for tables in (before, after)):
            self.labels = label_rows(before, after, self._examples).plus(self.labels, self._examples)

    def _add_revisions(self, before: pl.DataFrame, after: pl.DataFrame) -> None:
        found = completion_rows(before, after, self._slugs, self._examples)
        self.completions = found.plus(self.completions, self._examples)
        if any("version_judgements" in made for made in self.made):
            self.revision_pairs.append(revision_pairs(before, after))


def _counts(rows: pl.DataFrame, table: str) -> dict[str, int]:
    """How many rows of a table were made under each principle, by its id."""
    ids = rows.select(PRINCIPLES_OF[table].alias("principle_id")).explode("principle_id")
    return dict(ids.group_by("principle_id").len().iter_rows())
