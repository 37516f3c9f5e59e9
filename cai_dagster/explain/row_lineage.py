"""Which rows have to do with a prompt, a pair or a principle, and which checkpoints were trained on such rows.

Training rows are those of the snapshots in a checkpoint's record. Where no table was replaced since, they are counted
for all checkpoints at once, as they are now; for each other one by a query of its own, `AT (VERSION => n)`. It knows
which tables a trainer reads, nothing of training.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from cai_dagster.explain.checkpoints import Checkpoint, Trained, training_condition
from cai_dagster.explain.rows import PREFERENCE_SPLIT, RowCount, RowFilter, TableRows, is_versioned, tables_of_pairs
from cai_dagster.home import Home
from cai_dagster.lake.connection import literal
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.lake.history import LakeHistory
from cai_dagster.lake.reader import LakeReader, NoSuchSnapshotError, Row
from cai_dagster.lake.snapshots import FORGET_RUN
from cai_dagster.tables.registry import TABLES, made_by
from cai_dagster.tables.table import Maker
from cai_dagster.training.checkpoint_folders import records


class RowLineage:
    """The rows and checkpoints of a home, asked for by what they have to do with."""

    def __init__(self, reader: LakeReader, home: Home) -> None:
        self._reader = reader
        self._home = home
        self._history = LakeHistory(reader)
        self._counted: dict[tuple[RowFilter, str], list[Row]] = {}
        self._now: dict[tuple[RowFilter, TableRows], dict[str | None, int]] = {}

    @cached_property
    def _accounts(self) -> list[Row]:
        query = """
            SELECT table_name, constitution_version, data_version, snapshot_id, run_id FROM lake.materializations
            ORDER BY snapshot_id
        """
        return self._reader.rows(query)

    @cached_property
    def written(self) -> dict[tuple[str, str | None], int]:
        """The snapshot since which each table (of each version) has its rows; the same rows again change nothing."""
        since: dict[tuple[str, str | None], int] = {}
        data_versions: dict[tuple[str, str | None], str] = {}
        for row in self._accounts:
            key = row["table_name"], row["constitution_version"]
            if data_versions.get(key) != row["data_version"]:
                data_versions[key], since[key] = row["data_version"], row["snapshot_id"]
        return since

    @cached_property
    def _commits(self) -> dict[tuple[str, str | None], list[int]]:
        """The snapshots that replaced the rows of each table (of each version), the earliest first."""
        commits: dict[tuple[str, str | None], list[int]] = {}
        for row in self._accounts:
            if row["run_id"] != FORGET_RUN:
                commits.setdefault((row["table_name"], row["constitution_version"]), []).append(row["snapshot_id"])
        return commits

    @cached_property
    def filled(self) -> list[str]:
        """The tables that were ever materialized: a look at one of the others is lost time."""
        written = {table for table, _ in self.written}
        return [table for table in TABLES if table in written]

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """Those in use, and those whose folder is still there; the newest first."""
        known: dict[tuple[str, str], Mapping[str, Any]] = {}
        versions: dict[tuple[str, str], list[str]] = {}
        models = [asset for asset in made_by(Maker.training) if asset in self.filled]
        selects = [f"SELECT '{asset}' AS asset, constitution_version, record FROM lake.{asset}" for asset in models]
        for row in self._reader.rows(" UNION ALL ".join(selects)) if selects else []:
            record = json.loads(row["record"])
            name = (row["asset"], record["checkpoint_key"])
            known[name] = record
            versions.setdefault(name, []).append(row["constitution_version"])
        for asset in made_by(Maker.training):
            for file in records(self._home, asset):
                name = (asset, file.parent.name)
                if name not in known:
                    known[name] = json.loads(file.read_text(encoding="utf-8"))
        found = [Checkpoint(*name, tuple(sorted(versions.get(name, ()))), record) for name, record in known.items()]
        return sorted(found, key=lambda checkpoint: checkpoint.record["created_at"], reverse=True)

    def of_prompt(self, prompt_id: str) -> RowFilter:
        """All rows of a prompt and of its pairs."""
        prompt = RowFilter("prompt", (prompt_id,))
        rows = [TableRows(table, "t.prompt_id IN ($ids)") for table in tables_of_pairs() if table in self.filled]
        found = self._grouped(rows, prompt, "list(DISTINCT t.pair_id) AS pair_ids")
        pair_ids = {pair_id for row in found if row["n"] for pair_id in row["pair_ids"]}
        wanted = RowFilter("prompt", (prompt_id,), tuple(sorted(pair_ids)))
        self._keep(rows, wanted, found)
        return wanted

    def of_principles(self, principle_ids: Sequence[str]) -> RowFilter:
        """All rows that came of principles."""
        pairs = self._reader.rows("SELECT 1 FROM lake.response_pairs WHERE source = 'revisions' LIMIT 1")
        if not pairs:
            return RowFilter("principle", tuple(principle_ids))
        several = self._reader.rows("SELECT 1 FROM lake.revision_rounds WHERE sample > 0 LIMIT 1")
        return RowFilter("principle", tuple(principle_ids), through_revisions="sample" if several else "prompt")

    def counts(self, wanted: RowFilter) -> list[RowCount]:
        """How many rows the filter keeps, by table and version, each with an example."""
        held = [rows for table in self.filled if (rows := wanted.applied_to(TableRows(table)))]
        others = [rows for rows in held if (wanted, rows.table) not in self._counted]
        self._keep(others, wanted, self._grouped(others, wanted))
        return _row_counts(row for rows in held for row in self._counted[wanted, rows.table])

    def remember(self, wanted: RowFilter, counts: Iterable[RowCount]) -> None:
        """Counts that are known already, of all that the filter keeps in their tables: `counts` looks no more."""
        for count in counts:
            known = self._counted.setdefault((wanted, count.table), [])
            known.append(
                {
                    "table_name": count.table,
                    "version": count.constitution_version,
                    "n": count.rows,
                    "snapshot": count.snapshot,
                    "example": count.example,
                }
            )

    def count(self, held: Sequence[TableRows], wanted: RowFilter | None = None, **parameters: str) -> list[RowCount]:
        """How many of some rows there are, by table and version; of those that a filter keeps, with an example."""
        return _row_counts(self._grouped(held, wanted, **parameters))

    def _grouped(
        self, held: Sequence[TableRows], wanted: RowFilter | None, also: str | None = None, **parameters: str
    ) -> list[Row]:
        """One row for each table and version; `trained` are those of the split that is trained on.

        A table that several conditions name is read once: those of its rows that the filter keeps. Not so the rounds of
        revision, where a condition asks for the last one too, which may be under another principle.
        """
        if not held:
            return []
        named = Counter(table for rows in held for table in rows.tables)
        shared = {
            table: rows.select("*, snapshot_id")
            for table, times in named.items()
            if times > 1
            and wanted is not None
            and (rows := wanted.applied_to(TableRows(table)))
            and not (wanted.through_revisions == "sample" and table == "revision_rounds")
        }
        selects: list[str] = []
        for rows in held:
            version = "t.constitution_version" if is_versioned(rows.table) else "NULL"
            trained = f"count(*) FILTER ({PREFERENCE_SPLIT})" if TABLES[rows.table].has("split") else "count(*)"
            example = wanted.example(rows.table) if wanted else "NULL"
            what = f"'{rows.table}' AS table_name, {version} AS version, count(*) AS n, {trained} AS trained"
            what += f", max(t.snapshot_id) AS snapshot, {example} AS example{f', {also}' if also else ''}"
            places = {table: f"sought_{table}" if table in shared else f"lake.{table}" for table in rows.tables}
            selects.append(f"{rows.select(what, places)} GROUP BY ALL")
        query = " UNION ALL ".join(selects)
        if shared:
            query = f"WITH {', '.join(f'sought_{table} AS ({rows})' for table, rows in shared.items())} {query}"
        return self._reader.rows(query, **(wanted.parameters if wanted else {}), **parameters)

    def _keep(self, held: Sequence[TableRows], wanted: RowFilter, found: Sequence[Row]) -> None:
        """What was counted, and with it what `that_saw` would count again: those of the split that is trained on."""
        for table in {rows.table for rows in held}:
            counted = [row for row in found if row["table_name"] == table]
            self._counted[wanted, table] = counted
            training = wanted.applied_to(TableRows(table, training_condition(TABLES[table])))
            if training is not None:
                self._now[wanted, training] = {row["version"]: row["trained"] for row in counted}

    def unchanged(self, checkpoint: Checkpoint, table: str) -> bool:
        """Whether the table still has the rows that the checkpoint was trained on."""
        version = checkpoint.constitution_version if is_versioned(table) else None
        written = self.written.get((table, version))
        return written is not None and written <= checkpoint.snapshot_of(table)

    def read(
        self, checkpoint: Checkpoint, rows: TableRows, what: str, tail: str = "", wanted: RowFilter | None = None
    ) -> tuple[list[Row], bool]:
        """Training rows of a checkpoint as of its snapshots, and whether these are still there.

        Where a snapshot has been expired, the rows as they are now. `tail` is SQL such as ORDER BY.
        """
        parameters = wanted.parameters if wanted else {}
        try:
            query = rows.select(what, checkpoint.as_of(rows.tables))
            return self._reader.rows(f"{query} {tail}", **parameters), True
        except NoSuchSnapshotError:
            if is_versioned(rows.table):
                rows = rows.and_also(f"t.constitution_version = {literal(checkpoint.constitution_version)}")
            return self._reader.rows(f"{rows.select(what)} {tail}", **parameters), False

    def that_saw(self, wanted: RowFilter) -> list[Trained]:
        """The checkpoints with a training row that the filter keeps, then those made from such a checkpoint."""
        totals: Counter[str] = Counter()
        inexact: set[str] = set()
        replaced: dict[TableRows, list[Checkpoint]] = {}
        rows_were_deleted = wanted.kind == "prompt" and not forgotten_prompts(self._home).isdisjoint(wanted.ids)
        for checkpoint in self.checkpoints:
            for rows in filter(None, map(wanted.applied_to, checkpoint.rows)):
                if all(self.unchanged(checkpoint, table) for table in rows.tables):
                    version = checkpoint.constitution_version if is_versioned(rows.table) else None
                    totals[checkpoint.key] += self._counted_now(rows, wanted).get(version, 0)
                elif not rows_were_deleted and self._is_in_history(checkpoint, rows):
                    replaced.setdefault(rows, []).append(checkpoint)
                else:
                    counted, exact = self.read(checkpoint, rows, "count(*) AS n", wanted=wanted)
                    totals[checkpoint.key] += counted[0]["n"]
                    if not exact:
                        inexact.add(checkpoint.key)
        for rows, checkpoints in replaced.items():
            totals.update(self._counted_then(rows, checkpoints, wanted))
        found = [
            Trained(checkpoint, totals[checkpoint.key], checkpoint.key not in inexact)
            for checkpoint in self.checkpoints
            if totals[checkpoint.key]
        ]
        return [*found, *self.made_from([one.checkpoint for one in found])]

    def _is_in_history(self, checkpoint: Checkpoint, rows: TableRows) -> bool:
        """Whether the commits tell which rows a checkpoint saw: of versions, and of what is the same for all."""
        if not is_versioned(rows.table):
            return False
        return all(
            checkpoint.snapshot_of(table) in self._readable
            if is_versioned(table)
            else self.unchanged(checkpoint, table)
            for table in rows.tables
        )

    @cached_property
    def _readable(self) -> frozenset[int]:
        return frozenset(self._history.snapshots)

    def _counted_then(self, rows: TableRows, checkpoints: Sequence[Checkpoint], wanted: RowFilter) -> dict[str, int]:
        """How many of the rows each checkpoint saw, by its key, in one query: each snapshot read alone takes as long.

        A checkpoint's key stands in place of its version, so that conditions on several tables of one version are on
        those tables as the checkpoint saw them.
        """
        places = {
            table: self._as_seen_by(table, checkpoints) if is_versioned(table) else f"lake.{table}"
            for table in rows.tables
        }
        query = f"{rows.select('t.constitution_version AS key, count(*) AS n', places)} GROUP BY ALL"
        return {row["key"]: row["n"] for row in self._reader.rows(query, **wanted.parameters)}

    def _as_seen_by(self, table: str, checkpoints: Sequence[Checkpoint]) -> str:
        seen: list[str] = []
        for checkpoint in checkpoints:
            version = checkpoint.constitution_version
            commits = self._commits.get((table, version), [])
            before = bisect_right(commits, checkpoint.snapshot_of(table))
            if before:
                seen.append(f"({literal(checkpoint.key)}, {literal(version)}, {commits[before - 1]})")
        if not seen:
            return f"(SELECT * FROM lake.{table} WHERE false)"
        return f"""(
            SELECT h.* REPLACE (seen.key AS constitution_version) FROM ({self._history.ever(table)}) h
            JOIN (VALUES {", ".join(seen)}) seen(key, version, born)
                ON h.constitution_version = seen.version AND h.snapshot_id = seen.born
        )"""

    def _counted_now(self, rows: TableRows, wanted: RowFilter) -> dict[str | None, int]:
        if (wanted, rows) not in self._now:
            version = "t.constitution_version" if is_versioned(rows.table) else "NULL"
            query = f"{rows.select(f'{version} AS version, count(*) AS n')} GROUP BY ALL"
            counted = self._reader.rows(query, **wanted.parameters)
            self._now[wanted, rows] = {row["version"]: row["n"] for row in counted}
        return self._now[wanted, rows]

    def made_from(self, parents: Sequence[Checkpoint]) -> list[Trained]:
        """The checkpoints whose base model or reward model is one of these, or was made from one of them."""
        seen = {parent.key for parent in parents}
        made: list[Trained] = []
        waiting = list(parents)
        while waiting:
            parent = waiting.pop()
            for checkpoint in self.checkpoints:
                if checkpoint.key not in seen and self._comes_from(checkpoint, parent):
                    seen.add(checkpoint.key)
                    made.append(Trained(checkpoint, 0, through=parent))
                    waiting.append(checkpoint)
        return made

    def _comes_from(self, checkpoint: Checkpoint, parent: Checkpoint) -> bool:
        if checkpoint.starts_from(parent):
            return True
        return parent.asset == "reward_model" and self.reward_model_key(checkpoint) == parent.key

    def reward_model_key(self, checkpoint: Checkpoint) -> str | None:
        """The reward model whose rewards a checkpoint was optimized for."""
        if "reward_model" not in checkpoint.snapshots:
            return None
        if self.unchanged(checkpoint, "reward_model"):
            version = checkpoint.constitution_version
            keys = [one.key for one in self.checkpoints if one.asset == "reward_model" and version in one.versions]
        else:
            rows, _ = self.read(checkpoint, TableRows("reward_model"), "checkpoint_key")
            keys = [row["checkpoint_key"] for row in rows]
        return keys[0] if keys else None


def _row_counts(grouped: Iterable[Row]) -> list[RowCount]:
    """In the order of the graph, then of the versions' names."""
    order = list(TABLES)
    names = ("table_name", "version", "n", "snapshot", "example")
    counts = [RowCount(*(row[name] for name in names)) for row in grouped if row["n"]]
    return sorted(counts, key=lambda count: (order.index(count.table), count.constitution_version or ""))
