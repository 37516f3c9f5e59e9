"""Why a row is there and where it went: backwards from an id to the prompt and its file, forwards to every checkpoint.

It answers from the lake as it is, but for a checkpoint's training rows, which are read as of its snapshots. It knows no
terminal: what it finds is a tree of nodes.
"""

from collections.abc import Iterable, Sequence

from cai_dagster.calls.ledger_reader import LedgerCall, LedgerReader
from cai_dagster.explain.ancestry import FIRST_RESPONSES, NOW, Ancestry, Moment, request_node
from cai_dagster.explain.identifiers import MOST_NAMED, Found, Identifiers
from cai_dagster.explain.nodes import Node, Trace, TraceError
from cai_dagster.explain.row_lineage import RowLineage
from cai_dagster.explain.rows import RowCount, RowFilter, TableRows
from cai_dagster.home import Home
from cai_dagster.lake.reader import LakeReader
from cai_dagster.tables.registry import TABLES, tables_with, tables_with_calls_of


def trace(home: Home, identifier: str, constitution_version: str | None = None, examples: int = 1) -> Trace:
    """What has the id, or an id that begins so; `examples` of a checkpoint's training rows are followed back.

    Raises TraceError when nothing has it, several things have, or nothing of that version.
    """
    return _Tracer(home).trace(identifier.strip(), constitution_version, examples)


class _Tracer:
    def __init__(self, home: Home) -> None:
        self._reader = LakeReader(home)
        self._ledger = LedgerReader(home)
        self._lineage = RowLineage(self._reader, home)
        self._identifiers = Identifiers(home, self._reader, self._ledger, self._lineage)
        self._ancestry = Ancestry(self._reader, self._ledger, self._lineage)

    def trace(self, identifier: str, version: str | None, examples: int) -> Trace:
        found = self._identifiers.find(identifier)
        match found.kind:
            case "prompt":
                return self._trace_prompt(found.id, version)
            case "pair":
                return self._trace_pair(found.id, version)
            case "principle":
                return self._trace_principle(found, version)
            case "checkpoint":
                return self._trace_checkpoint(found.id, version, examples)
            case "request":
                return self._trace_request(found.id, version)

    def _trace_prompt(self, prompt_id: str, version: str | None) -> Trace:
        wanted = self._lineage.of_prompt(prompt_id)
        self._lineage.remember(wanted, self._unversioned_rows(prompt_id))
        counts = self._lineage.counts(wanted)
        versions = _versions(counts)
        moment = Moment(_chosen(version, versions, f"prompt {prompt_id}"))
        backwards = self._ancestry.prompt(moment, prompt_id)
        return Trace("prompt", prompt_id, moment.version, versions, backwards, counts, self._lineage.that_saw(wanted))

    def _trace_pair(self, pair_id: str, version: str | None) -> Trace:
        wanted = RowFilter("pair", (pair_id,))
        counts = self._lineage.counts(wanted)
        versions = _versions(counts)
        moment = Moment(_chosen(version, versions, f"pair {pair_id}"))
        backwards = self._ancestry.pair(moment, pair_id)
        return Trace("pair", pair_id, moment.version, versions, backwards, counts, self._lineage.that_saw(wanted))

    def _trace_principle(self, found: Found, version: str | None) -> Trace:
        wanted = self._lineage.of_principles(found.ids)
        self._lineage.remember(wanted, self._identifiers.editions_by_version(found.ids))
        counts = self._lineage.counts(wanted)
        versions = _versions(counts)
        chosen = _chosen(version, versions, f"principle {found.id}")
        checkpoints = self._lineage.that_saw(wanted)
        if version is not None:
            counts = [count for count in counts if count.constitution_version == version]
            checkpoints = [one for one in checkpoints if one.checkpoint.constitution_version == version]
        backwards = self._principle(found, chosen)
        return Trace("principle", found.id, chosen, versions, backwards, counts, checkpoints)

    def _trace_request(self, request_id: str, version: str | None) -> Trace:
        call = self._ledger.calls([request_id])[request_id]
        counts = self._rows_of_call(call)
        versions = _versions(counts)
        moment = Moment(_chosen(version, versions, f"request {request_id}"))
        prompt = self._ancestry.prompt(moment, call.prompt_id)
        backwards = request_node(request_id, call, "answer", shown=True, children=[*self._ancestry.asked(call), prompt])
        return Trace("request", request_id, moment.version, versions, backwards, counts, None)

    def _rows_of_call(self, call: LedgerCall) -> list[RowCount]:
        """The rows that hold a call's id; the ledger knows its stage and its prompt, so only those are looked at."""
        tables = [table for table in tables_with_calls_of(call.stage) if table in self._lineage.filled]
        has_prompts = all(TABLES[table].has("prompt_id") for table in tables)
        prompt = RowFilter("prompt", (call.prompt_id,)) if has_prompts else self._lineage.of_prompt(call.prompt_id)
        held: list[TableRows] = []
        for table in tables:
            rows = prompt.applied_to(TableRows(table))
            if rows is not None:
                held.append(rows.and_also(f"({' OR '.join(map(_holds_request, TABLES[table].call_columns))})"))
        return self._lineage.count(held, prompt, request=call.request_id)

    def _trace_checkpoint(self, key: str, version: str | None, examples: int) -> Trace:
        checkpoint = next(one for one in self._lineage.checkpoints if one.key == key)
        versions = checkpoint.versions or (checkpoint.constitution_version,)
        chosen = _chosen(version, versions, f"checkpoint {key}")
        backwards = self._ancestry.checkpoint(checkpoint, examples)
        made = self._lineage.made_from([checkpoint])
        return Trace("checkpoint", key, chosen, versions, backwards, self._rows_of_checkpoint(key), made)

    def _rows_of_checkpoint(self, key: str) -> list[RowCount]:
        held = [TableRows(table, "t.checkpoint_key = $key") for table in tables_with("checkpoint_key")]
        held.append(TableRows("best_of_n", "t.reward_model = $key"))
        return self._lineage.count([rows for rows in held if rows.table in self._lineage.filled], key=key)

    def _unversioned_rows(self, prompt_id: str) -> Iterable[RowCount]:
        for table in ("prompts", *FIRST_RESPONSES):
            rows = self._ancestry.rows_of_prompt(NOW, table, prompt_id)
            if rows:
                yield RowCount(table, None, len(rows), max(row["snapshot_id"] for row in rows))

    def _principle(self, found: Found, version: str | None) -> Node:
        """A principle as the version has it, and its other editions."""
        editions = [row for row in self._identifiers.editions if row["principle_id"] in found.ids]
        editions.sort(key=lambda row: version not in row["versions"])
        nodes = [
            Node(
                "principle",
                row["principle_id"],
                {
                    "slug": row["slug"],
                    "versions": row["versions"],
                    "weights": dict(zip(row["versions"], row["weights"], strict=True)),
                },
                {name: row[name] for name in ("critique_request", "revision_request", "comparison_request")},
            )
            for row in editions
        ]
        first, *others = nodes
        return Node(first.kind, first.id, first.facts, first.texts, others)


def _holds_request(column: str) -> str:
    return f"list_contains(t.{column}, $request)" if column.endswith("s") else f"t.{column} = $request"


def _versions(counts: Sequence[RowCount]) -> list[str]:
    """The versions that have rows, the one that was last written last."""
    written: dict[str, int] = {}
    for count in counts:
        if count.constitution_version is not None:
            written[count.constitution_version] = max(written.get(count.constitution_version, 0), count.snapshot)
    return sorted(written, key=lambda version: written[version])


def _chosen(asked: str | None, versions: Sequence[str], what: str) -> str | None:
    """The version to tell of: the one asked for, or the last of those that there are."""
    if asked is None:
        return versions[-1] if versions else None
    if asked not in versions:
        there = ", ".join(versions[-MOST_NAMED:]) or "none"
        raise TraceError(f"{what} has no rows in constitution version {asked!r}; the last versions that have: {there}")
    return asked
