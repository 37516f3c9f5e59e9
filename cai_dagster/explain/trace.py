"""Why a row is there and where it went: backwards from an id to the prompt and its file, forwards to every checkpoint.

It answers from the lake as it is, but for a checkpoint's training rows, which are read as of its snapshots. It knows no
terminal: what it finds is a tree of nodes.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from cai_dagster.calls.ledger_reader import LedgerCall, LedgerReader
from cai_dagster.errors import MendableError
from cai_dagster.explain.checkpoints import Checkpoint, Trained
from cai_dagster.explain.row_lineage import RowLineage
from cai_dagster.explain.rows import RowCount, Rows, Sought, is_versioned, tables_of_pairs
from cai_dagster.home import Home
from cai_dagster.judging.label_statistics import p_completion_0_of
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.lake.reader import LakeReader, Row, literal
from cai_dagster.tables.registry import TABLES, tables_with, tables_with_calls_of

Kind = Literal["prompt", "pair", "principle", "checkpoint", "request"]

MOST_NAMED = 10  # ids in an error
FEWEST_DIGITS = 4
ROW_ID, REQUEST_ID = 32, 64  # digits of an id that nothing is missing of
_HEX = re.compile(r"[0-9a-f]+")
_FIRST_RESPONSES = {"initial_responses": "first response", "teacher_responses": "teacher's response"}


class TraceError(MendableError):
    """Nothing, or more than one thing, has the id; the message says what has."""


@dataclass(frozen=True)
class Node:
    """Something in the lake or the ledger: what is known of it, and below it what it was made from."""

    kind: str
    id: str
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    children: Sequence["Node"] = ()


@dataclass(frozen=True)
class Trace:
    """All that is known of one id.

    `constitution_version` is the one that `backwards` is about, of all `versions` that have rows of it. `checkpoints`
    is None where one has to ask for the prompt or the pair instead.
    """

    kind: Kind
    id: str
    constitution_version: str | None
    versions: Sequence[str]
    backwards: Node
    rows: Sequence[RowCount]
    checkpoints: Sequence[Trained] | None

    def to_json(self) -> dict[str, Any]:
        """As `cai trace --json` prints it; docs/explain.md describes the keys."""
        return {
            "kind": self.kind,
            "id": self.id,
            "constitution_version": self.constitution_version,
            "versions": list(self.versions),
            "backwards": asdict(self.backwards),
            "forwards": {
                "rows": [asdict(row) for row in self.rows],
                "checkpoints": None if self.checkpoints is None else [one.to_json() for one in self.checkpoints],
            },
        }


@dataclass(frozen=True)
class Found:
    """What an id is the id of; a principle may have several ids under one slug."""

    kind: Kind
    id: str
    ids: Sequence[str]


@dataclass(frozen=True)
class _Moment:
    """One constitution version, at one snapshot of the lake or now."""

    version: str | None
    snapshot: int | None = None

    def table(self, name: str) -> str:
        return f"lake.{name}" if self.snapshot is None else f"lake.{name} AT (VERSION => {self.snapshot})"


_NOW = _Moment(None)


def trace(home: Home, identifier: str, constitution_version: str | None = None, examples: int = 1) -> Trace:
    """What has the id, or an id that begins so; `examples` of a checkpoint's training rows are followed back.

    Raises TraceError when nothing has it, several things have, or nothing of that version.
    """
    return _Tracer(home).trace(identifier.strip(), constitution_version, examples)


class _Tracer:
    def __init__(self, home: Home) -> None:
        self._home = home
        self._reader = LakeReader(home)
        self._ledger = LedgerReader(home)
        self._lineage = RowLineage(self._reader, home)
        self._rows_of_prompts: dict[tuple[str, str], list[Row]] = {}
        self._constitutions: dict[_Moment, dict[str, tuple[str, Row]]] = {}

    def trace(self, identifier: str, version: str | None, examples: int) -> Trace:
        found = self._find(identifier)
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

    # what has the id

    def _find(self, identifier: str) -> Found:
        found: dict[tuple[str, str], Found] = {}
        for search in (self._prompts, self._checkpoints, self._requests, self._pairs, self._principles):
            for one in search(identifier):
                if one.id == identifier:
                    return one  # a whole id, or a slug
                found[one.kind, one.id] = one
        if not found:
            found = {(one.kind, one.id): one for one in self._prompts_elsewhere(identifier)}
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            named = ", ".join(f"{one.kind} {one.id}" for one in list(found.values())[:MOST_NAMED])
            more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            raise TraceError(f"{identifier!r} is the beginning of several ids: {named}{more}. Give more of one.")
        if _HEX.fullmatch(identifier) and len(identifier) < FEWEST_DIGITS:
            raise TraceError(f"{identifier!r} is too short: give at least {FEWEST_DIGITS} digits of an id, or a slug")
        if any(one.startswith(identifier) for one in forgotten_prompts(self._home)):
            raise TraceError(f"the prompt {identifier} was removed for good (`cai forget`): nothing is known of it")
        raise TraceError(
            f"nothing in this home has the id {identifier!r}. It takes a prompt_id, pair_id, principle_id, checkpoint "
            "key or request_id (or the beginning of one), or a principle's slug, as they are in the tables."
        )

    def _prompts(self, identifier: str) -> Iterable[Found]:
        if len(identifier) == ROW_ID:
            return [Found("prompt", identifier, [identifier])] if self._of_prompt(_NOW, "prompts", identifier) else []
        return self._beginning_with("prompt", identifier, "prompt_id", ["prompts"])

    def _prompts_elsewhere(self, identifier: str) -> Iterable[Found]:
        """Prompts that are in other tables only: those of human preferences, and those whose file has changed."""
        return self._beginning_with("prompt", identifier, "prompt_id", tables_with("prompt_id"))

    def _pairs(self, identifier: str) -> Iterable[Found]:
        return self._beginning_with("pair", identifier, "pair_id", tables_of_pairs())

    def _checkpoints(self, identifier: str) -> Iterable[Found]:
        if _is_beginning(identifier, ROW_ID):
            keys = [checkpoint.key for checkpoint in self._lineage.checkpoints]
            return [Found("checkpoint", key, [key]) for key in keys if key.startswith(identifier)]
        return []

    def _requests(self, identifier: str) -> Iterable[Found]:
        if _is_beginning(identifier, REQUEST_ID):
            return [Found("request", call, [call]) for call in self._ledger.beginning_with(identifier, MOST_NAMED + 1)]
        return []

    def _principles(self, identifier: str) -> Iterable[Found]:
        ids_of: dict[str, list[str]] = {}
        for row in self._editions if identifier else []:
            if row["slug"].startswith(identifier):
                ids_of.setdefault(row["slug"], []).append(row["principle_id"])
            if _is_beginning(identifier, ROW_ID) and row["principle_id"].startswith(identifier):
                yield Found("principle", row["principle_id"], [row["principle_id"]])
        for slug, ids in ids_of.items():
            yield Found("principle", slug, ids)

    @cached_property
    def _editions(self) -> list[Row]:
        """Each principle's texts under each of its slugs, with the versions that have them; the last written first."""
        query = """
            SELECT principle_id, slug, critique_request, revision_request, comparison_request,
                list(constitution_version ORDER BY constitution_version) AS versions,
                list(weight ORDER BY constitution_version) AS weights,
                list(snapshot_id ORDER BY constitution_version) AS snapshots
            FROM lake.constitution GROUP BY ALL ORDER BY max(snapshot_id) DESC, slug
        """
        return self._reader.rows(query)

    def _editions_by_version(self, principle_ids: Sequence[str]) -> list[RowCount]:
        """In how many rows of `constitution` each version has these principles."""
        snapshots: dict[str, list[int]] = {}
        for row in self._editions:
            if row["principle_id"] in principle_ids:
                for version, snapshot in zip(row["versions"], row["snapshots"], strict=True):
                    snapshots.setdefault(version, []).append(snapshot)
        return [RowCount("constitution", version, len(of), max(of)) for version, of in snapshots.items()]

    def _beginning_with(self, kind: Kind, identifier: str, column: str, tables: Iterable[str]) -> Iterable[Found]:
        if not _is_beginning(identifier, ROW_ID):
            return []
        held = "= $id" if len(identifier) == ROW_ID else "BETWEEN $id AND $last"
        there = [table for table in tables if table in self._lineage.filled]
        if not there:
            return []
        ids = " UNION ALL ".join(f"SELECT {column} AS id FROM lake.{table} WHERE {column} {held}" for table in there)
        query = f"SELECT DISTINCT id FROM ({ids}) ORDER BY id LIMIT {MOST_NAMED + 1}"
        rows = self._reader.rows(query, id=identifier, last=f"{identifier}g")
        return [Found(kind, row["id"], [row["id"]]) for row in rows]

    # each kind of thing

    def _trace_prompt(self, prompt_id: str, version: str | None) -> Trace:
        sought = self._lineage.of_prompt(prompt_id)
        self._lineage.remember(sought, self._unversioned_rows(prompt_id))
        counts = self._lineage.counts(sought)
        versions = _versions(counts)
        moment = _Moment(_chosen(version, versions, f"prompt {prompt_id}"))
        backwards = self._prompt(moment, prompt_id)
        return Trace("prompt", prompt_id, moment.version, versions, backwards, counts, self._lineage.that_saw(sought))

    def _trace_pair(self, pair_id: str, version: str | None) -> Trace:
        sought = Sought("pair", (pair_id,))
        counts = self._lineage.counts(sought)
        versions = _versions(counts)
        moment = _Moment(_chosen(version, versions, f"pair {pair_id}"))
        backwards = self._pair(moment, pair_id)
        return Trace("pair", pair_id, moment.version, versions, backwards, counts, self._lineage.that_saw(sought))

    def _trace_principle(self, found: Found, version: str | None) -> Trace:
        sought = self._lineage.of_principles(found.ids)
        self._lineage.remember(sought, self._editions_by_version(found.ids))
        counts = self._lineage.counts(sought)
        versions = _versions(counts)
        chosen = _chosen(version, versions, f"principle {found.id}")
        checkpoints = self._lineage.that_saw(sought)
        if version is not None:
            counts = [count for count in counts if count.constitution_version == version]
            checkpoints = [one for one in checkpoints if one.checkpoint.constitution_version == version]
        backwards = self._principle(found, chosen)
        return Trace("principle", found.id, chosen, versions, backwards, counts, checkpoints)

    def _trace_request(self, request_id: str, version: str | None) -> Trace:
        call = self._ledger.calls([request_id])[request_id]
        counts = self._rows_of_call(call)
        versions = _versions(counts)
        moment = _Moment(_chosen(version, versions, f"request {request_id}"))
        prompt = self._prompt(moment, call.prompt_id)
        backwards = _request_node(request_id, call, "answer", shown=True, children=[*self._asked(call), prompt])
        return Trace("request", request_id, moment.version, versions, backwards, counts, None)

    def _rows_of_call(self, call: LedgerCall) -> list[RowCount]:
        """The rows that hold a call's id; the ledger knows its stage and its prompt, so only those are looked at."""
        tables = [table for table in tables_with_calls_of(call.stage) if table in self._lineage.filled]
        has_prompts = all(TABLES[table].has("prompt_id") for table in tables)
        prompt = Sought("prompt", (call.prompt_id,)) if has_prompts else self._lineage.of_prompt(call.prompt_id)
        held: list[Rows] = []
        for table in tables:
            rows = prompt.among(Rows(table))
            if rows is not None:
                held.append(rows.and_also(f"({' OR '.join(map(_holds_request, TABLES[table].call_columns))})"))
        return self._lineage.count(held, prompt, request=call.request_id)

    def _trace_checkpoint(self, key: str, version: str | None, examples: int) -> Trace:
        checkpoint = next(one for one in self._lineage.checkpoints if one.key == key)
        versions = checkpoint.versions or (checkpoint.constitution_version,)
        chosen = _chosen(version, versions, f"checkpoint {key}")
        backwards = self._checkpoint(checkpoint, examples)
        made = self._lineage.made_from([checkpoint])
        return Trace("checkpoint", key, chosen, versions, backwards, self._rows_of_checkpoint(key), made)

    def _rows_of_checkpoint(self, key: str) -> list[RowCount]:
        held = [Rows(table, "t.checkpoint_key = $key") for table in tables_with("checkpoint_key")]
        held.append(Rows("best_of_n", "t.reward_model = $key"))
        return self._lineage.count([rows for rows in held if rows.table in self._lineage.filled], key=key)

    # backwards

    def _of(self, moment: _Moment, table: str, condition: str, **parameters: Any) -> list[Row]:
        """The rows of a table at a moment, with the snapshot that wrote each."""
        if table not in self._lineage.filled:
            return []
        if is_versioned(table):
            if moment.version is None:
                return []
            condition = f"constitution_version = {literal(moment.version)} AND {condition}"
        return self._reader.rows(f"SELECT *, snapshot_id FROM {moment.table(table)} WHERE {condition}", **parameters)

    def _of_prompt(self, moment: _Moment, table: str, prompt_id: str) -> list[Row]:
        """A prompt's rows in a table that no version has rows of its own in; they are looked for once."""
        key = moment.table(table), prompt_id
        if key not in self._rows_of_prompts:
            self._rows_of_prompts[key] = self._of(moment, table, "prompt_id = $id", id=prompt_id)
        return self._rows_of_prompts[key]

    def _unversioned_rows(self, prompt_id: str) -> Iterable[RowCount]:
        for table in ("prompts", *_FIRST_RESPONSES):
            rows = self._of_prompt(_NOW, table, prompt_id)
            if rows:
                yield RowCount(table, None, len(rows), max(row["snapshot_id"] for row in rows))

    def _prompt(self, moment: _Moment, prompt_id: str, sample: int | None = None, rounds: int | None = None) -> Node:
        """A prompt, its first responses and the rounds of revision; of one sample and up to one round, where given."""
        rows = self._of_prompt(moment, "prompts", prompt_id)
        if not rows:
            return self._imported_prompt(moment, prompt_id)
        (row,) = rows
        facts = {name: row[name] for name in ("source", "sources", "category", "split")}
        facts["snapshot"] = row["snapshot_id"]
        children = [
            *(
                node
                for table, kind in _FIRST_RESPONSES.items()
                for node in self._responses(moment, table, kind, prompt_id, sample)
            ),
            *self._rounds(moment, prompt_id, sample, rounds),
        ]
        return Node("prompt", prompt_id, facts, {"messages": dialogue(row["messages"])}, children)

    def _responses(self, moment: _Moment, table: str, kind: str, prompt_id: str, sample: int | None) -> Iterable[Node]:
        for row in sorted(self._of_prompt(moment, table, prompt_id), key=lambda row: row["sample"]):
            if sample in {None, row["sample"]}:
                facts = {name: row[name] for name in ("sample", "policy_model", "finish_reason")}
                facts["snapshot"] = row["snapshot_id"]
                requests = self._requests_of(row, "request_id")
                yield Node(kind, f"{prompt_id}/{row['sample']}", facts, {"completion": row["completion"]}, requests)

    def _imported_prompt(self, moment: _Moment, prompt_id: str) -> Node:
        """A prompt that is in no table but that of human preferences."""
        rows = self._of(moment, "human_preferences", "prompt_id = $id LIMIT 1", id=prompt_id)
        if not rows:
            return Node("prompt", prompt_id, {"missing": "it is no longer in the table prompts"})
        row = rows[0]
        facts = {name: row[name] for name in ("source", "category", "split")} | {"snapshot": row["snapshot_id"]}
        return Node("prompt", prompt_id, facts, {"messages": dialogue(row["prompt"])})

    def _rounds(self, moment: _Moment, prompt_id: str, sample: int | None, rounds: int | None) -> list[Node]:
        found = self._of(moment, "revision_rounds", "prompt_id = $id ORDER BY sample, round", id=prompt_id)
        kept = [row for row in found if sample in {None, row["sample"]} and (rounds is None or row["round"] <= rounds)]
        principles = self._texts_of_principles(moment) if kept else {}
        nodes: list[Node] = []
        for row in kept:
            slug, texts = principles.get(row["principle_id"], (None, dict[str, Any]()))
            facts = {name: row[name] for name in ("constitution_version", "sample", "round", "principle_id")}
            facts |= {"principle": slug, "snapshot": row["snapshot_id"]}
            asked = {name: texts[name] for name in ("critique_request", "revision_request") if texts}
            said = {"critique": row["critique"], "revision": row["revision"]}
            requests = self._requests_of(row, "critique_request_id", "revision_request_id")
            name = f"{prompt_id}/{row['sample']}/{row['round']}"
            nodes.append(Node("revision round", name, facts, {**asked, **said}, requests))
        return nodes

    def _texts_of_principles(self, moment: _Moment) -> dict[str, tuple[str, Row]]:
        if moment not in self._constitutions:
            rows = self._of(moment, "constitution", "true")
            self._constitutions[moment] = {row["principle_id"]: (row["slug"], row) for row in rows}
        return self._constitutions[moment]

    def _pair(self, moment: _Moment, pair_id: str) -> Node:
        rows = self._of(moment, "response_pairs", "pair_id = $id", id=pair_id)
        if not rows:
            return self._pair_of_others(moment, pair_id)
        (row,) = rows
        facts = {name: row[name] for name in ("constitution_version", "prompt_id", "source")}
        facts["snapshot"] = row["snapshot_id"]
        texts = {name: row[name] for name in ("completion_0", "completion_1")}
        children = [*self._labels(moment, pair_id, texts), *self._judgements(moment, "judgements", pair_id)]
        children += self._requests_of(row, "request_id_0", "request_id_1")
        return Node("pair", pair_id, facts, texts, [*children, self._prompt(moment, row["prompt_id"])])

    def _pair_of_others(self, moment: _Moment, pair_id: str) -> Node:
        """A pair that people compared, two policies' answers, or two versions' revisions."""
        for row in self._of(moment, "human_preferences", "pair_id = $id", id=pair_id):
            facts = {name: row[name] for name in ("source", "category", "split", "votes_chosen", "votes_rejected")}
            facts |= {"prompt_id": row["prompt_id"], "snapshot": row["snapshot_id"]}
            texts = {name: dialogue(row[name]) for name in ("chosen", "rejected")}
            judged = self._judgements(moment, "calibration_judgements", pair_id)
            prompt = self._prompt(moment, row["prompt_id"])
            return Node("human preference", pair_id, facts, texts, [*judged, prompt])
        for row in self._of(moment, "policy_judgements", "pair_id = $id LIMIT 1", id=pair_id):
            names = ("policy_0", "policy_1")
            answers = [self._answer(moment, row["prompt_id"], row[name]) for name in names]
            return self._compared(moment, "pair of policies", "policy_judgements", row, names, answers)
        for row in self._of(moment, "version_judgements", "pair_id = $id LIMIT 1", id=pair_id):
            versions = (row["against"], row["constitution_version"])
            revisions = [self._final_revision(version, row["prompt_id"], row["sample"]) for version in versions]
            names = ("against", "sample")
            return self._compared(moment, "pair of versions", "version_judgements", row, names, revisions)
        raise TraceError(f"pair {pair_id} has no rows in constitution version {moment.version!r}")

    def _compared(
        self,
        moment: _Moment,
        kind: str,
        table: str,
        row: Row,
        names: Sequence[str],
        completions: Sequence[tuple[str, Sequence[Node]] | None],
    ) -> Node:
        """Two completions that were judged and are no row of `response_pairs`: each with the calls that made it."""
        facts = {name: row[name] for name in ("constitution_version", "prompt_id", *names)}
        texts = {f"completion_{number}": made[0] for number, made in enumerate(completions) if made}
        requests = [request for made in completions if made for request in made[1]]
        children = [*self._judgements(moment, table, row["pair_id"]), *requests]
        return Node(kind, row["pair_id"], facts, texts, [*children, self._prompt(moment, row["prompt_id"])])

    def _answer(self, moment: _Moment, prompt_id: str, policy: str) -> tuple[str, Sequence[Node]] | None:
        """What a policy answered; None where that is no longer there."""
        for row in self._of(
            moment, "policy_responses", f"prompt_id = $id AND policy = {literal(policy)}", id=prompt_id
        ):
            return row["completion"], self._requests_of(row, "request_id")
        return None

    def _final_revision(self, version: str, prompt_id: str, sample: int) -> tuple[str, Sequence[Node]] | None:
        condition = f"prompt_id = $id AND sample = {sample} ORDER BY round DESC LIMIT 1"
        for row in self._of(_Moment(version), "revision_rounds", condition, id=prompt_id):
            return row["revision"], self._requests_of(row, "revision_request_id")
        return None

    def _labels(self, moment: _Moment, pair_id: str, completions: Mapping[str, str]) -> list[Node]:
        nodes: list[Node] = []
        for row in self._of(moment, "preference_pairs", "pair_id = $id", id=pair_id):
            chosen = row["chosen"][0]["content"]
            facts = {name: row[name] for name in ("p_chosen", "label_policy", "split")}
            facts["chosen"] = next((name for name, text in completions.items() if text == chosen), None)
            facts["snapshot"] = row["snapshot_id"]
            nodes.append(Node("label", pair_id, facts))
        return nodes

    def _judgements(self, moment: _Moment, table: str, pair_id: str) -> list[Node]:
        rows = self._of(moment, table, 'pair_id = $id ORDER BY principle_id, "order"', id=pair_id)
        principles = self._texts_of_principles(moment) if rows else {}
        nodes: list[Node] = []
        for row in rows:
            named = [principles[one] for one in _principles_of(row) if one in principles]
            facts = {
                "constitution_version": row["constitution_version"],
                "principles": [slug for slug, _ in named],
                "principle_id": row["principle_id"],
                "order": row["order"],
                "shown_as_a": "completion_0" if row["order"] == "01" else "completion_1",
                "p_a": math.exp(row["logp_a"]),
                "p_b": math.exp(row["logp_b"]),
                "p_completion_0": p_completion_0_of(row["logp_a"], row["logp_b"], row["order"]),
                "method": row.get("method") or "one_principle",
                "feedback_model": row["feedback_model"],
                "snapshot": row["snapshot_id"],
            }
            facts |= {
                name: row[name]
                for name in ("score_0", "score_1", "policy_0", "policy_1", "judged_by")
                if row.get(name) is not None
            }
            texts = {f"comparison_request of {slug}": principle["comparison_request"] for slug, principle in named}
            if row.get("rationale") is not None:
                texts["rationale"] = row["rationale"]
            name = f"{pair_id}/{row['principle_id']}/{row['order']}"
            requests = self._requests_of(row, "request_id", "rationale_request_id", "score_request_ids")
            nodes.append(Node("judgement", name, facts, texts, requests))
        return nodes

    def _requests_of(self, row: Row, *columns: str) -> list[Node]:
        """The calls that a row names: what they were for, what they cost and when they were made."""
        # A row of an older snapshot lacks the columns that came later: they would be null.
        ids = [(name, one) for name in columns for one in _as_list(row.get(name))]
        calls = self._ledger.calls(request_id for _, request_id in ids)
        return [
            _request_node(request_id, calls.get(request_id), name, children=self._asked(calls.get(request_id)))
            for name, request_id in ids
        ]

    def _asked(self, call: LedgerCall | None) -> list[Node]:
        """The checkpoint that a call was made of, where the model was trained here."""
        if call is None:
            return []
        return [_policy_node(one) for one in self._lineage.checkpoints if one.is_named_by(call.model_id)]

    def _principle(self, found: Found, version: str | None) -> Node:
        """A principle as the version has it, and its other editions."""
        editions = [row for row in self._editions if row["principle_id"] in found.ids]
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

    def _checkpoint(self, checkpoint: Checkpoint, examples: int) -> Node:
        """A checkpoint, the snapshots of the tables it was trained on, and some of its training rows followed back."""
        record = checkpoint.record
        names = (
            "base_model",
            "label_policy",
            "settings",
            "row_counts",
            "metrics",
            "seconds",
            "created_at",
            "code_version",
        )
        facts: dict[str, Any] = {"asset": checkpoint.asset, "constitution_version": checkpoint.constitution_version}
        facts |= {"in_use_for": list(checkpoint.versions)} | {name: record[name] for name in names}
        children = [
            Node(
                "snapshot",
                f"{table}@{snapshot}",
                {"table": table, "snapshot": snapshot, "unchanged": self._lineage.unchanged(checkpoint, table)},
            )
            for table, snapshot in checkpoint.snapshots.items()
        ]
        parents = [one for one in self._lineage.checkpoints if checkpoint.starts_from(one)]
        reward_model = self._lineage.reward_model_key(checkpoint)
        parents += [one for one in self._lineage.checkpoints if one.key == reward_model]
        for parent in parents:
            kind = "reward model" if parent.key == reward_model else "base model"
            version = {"asset": parent.asset, "constitution_version": parent.constitution_version}
            children.append(Node(kind, parent.key, version))
        children += [node for rows in checkpoint.rows for node in self._training_rows(checkpoint, rows, examples)]
        return Node("checkpoint", checkpoint.key, facts, {}, children)

    def _training_rows(self, checkpoint: Checkpoint, rows: Rows, examples: int) -> Iterable[Node]:
        """How many rows of a table it was trained on, the SQL that gives them back, and the first of them."""
        ids = [name for name in ("pair_id", "prompt_id", "sample", "round") if TABLES[rows.table].has(name)]
        counted, exact = self._lineage.read(checkpoint, rows, "count(*) AS n")
        sql = rows.select("t.*", checkpoint.as_of(rows.tables))
        facts = {"table": rows.table, "rows": counted[0]["n"], "exact": exact, "sql": " ".join(sql.split())}
        columns = ", ".join(f"t.{name}" for name in ids)
        found, _ = self._lineage.read(checkpoint, rows, columns, f"ORDER BY {columns} LIMIT {examples}")
        snapshot = checkpoint.snapshot_of(rows.table) if exact else None
        moment = _Moment(checkpoint.constitution_version, snapshot)
        yield Node("training rows", rows.table, facts, {}, [self._training_row(moment, row) for row in found])

    def _training_row(self, moment: _Moment, row: Row) -> Node:
        if "pair_id" in row:
            return self._pair(moment, row["pair_id"])
        sample, rounds = row.get("sample"), row.get("round")
        prompt = self._prompt(moment, row["prompt_id"], sample, rounds)
        if sample is None:
            return prompt
        name = "/".join(str(row[part]) for part in ("prompt_id", "sample", "round") if part in row)
        facts = {part: row[part] for part in ("prompt_id", "sample", "round") if part in row}
        return Node("example", name, facts, {}, [prompt])


def _policy_node(checkpoint: Checkpoint) -> Node:
    facts = {"asset": checkpoint.asset, "constitution_version": checkpoint.constitution_version}
    return Node("policy", checkpoint.key, facts)


def dialogue(turns: Sequence[Mapping[str, str]]) -> str:
    """Turns as one text; that of a single turn as it is."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _holds_request(column: str) -> str:
    return f"list_contains(t.{column}, $request)" if column.endswith("s") else f"t.{column} = $request"


def _is_beginning(identifier: str, digits: int) -> bool:
    return bool(_HEX.fullmatch(identifier)) and FEWEST_DIGITS <= len(identifier) <= digits


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


def _principles_of(judgement: Row) -> list[str]:
    return judgement.get("principle_ids") or [judgement["principle_id"]]


def _as_list(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _request_node(
    request_id: str, call: LedgerCall | None, made: str, *, shown: bool = False, children: Sequence[Node] = ()
) -> Node:
    """A call; its answer only where it is what is asked for, for it stands in the row otherwise."""
    if call is None:
        return Node("request", request_id, {"made": made, "in_ledger": False})
    facts: dict[str, Any] = {"made": made, "in_ledger": True}
    names = ("stage", "model_id", "prompt_tokens", "completion_tokens", "seconds", "created_at", "finish_reason")
    facts |= {name: getattr(call, name) for name in names}
    if call.retried_for is not None:
        facts["retried_for"] = call.retried_for
    if call.logprobs is not None:
        facts["logprobs"] = json.loads(call.logprobs)
    texts = {"answer": call.text} if shown and call.text else {}
    return Node("request", request_id, facts, texts, children)
