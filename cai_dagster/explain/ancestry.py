"""What a row, a pair, a checkpoint or a call was made from, down to prompts and their files."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cai_dagster.calls.ledger_reader import LedgerCall, LedgerReader
from cai_dagster.explain.checkpoints import Checkpoint
from cai_dagster.explain.nodes import Node, TraceError, transcript
from cai_dagster.explain.row_lineage import RowLineage
from cai_dagster.explain.rows import TableRows, is_versioned
from cai_dagster.judging.label_statistics import p_completion_0_of
from cai_dagster.lake.connection import literal
from cai_dagster.lake.reader import LakeReader, Row
from cai_dagster.tables.registry import TABLES

FIRST_RESPONSES = {table.name: table.called for table in TABLES.values() if table.called}


@dataclass(frozen=True)
class Moment:
    """One constitution version, at one snapshot of the lake or now."""

    version: str | None
    snapshot: int | None = None

    def table(self, name: str) -> str:
        """SQL for a table at this moment."""
        return f"lake.{name}" if self.snapshot is None else f"lake.{name} AT (VERSION => {self.snapshot})"


NOW = Moment(None)


class Ancestry:
    """The rows of one home, each with what it was made from."""

    def __init__(self, reader: LakeReader, ledger: LedgerReader, lineage: RowLineage) -> None:
        self._reader = reader
        self._ledger = ledger
        self._lineage = lineage
        self._rows_of_prompts: dict[tuple[str, str], list[Row]] = {}
        self._constitutions: dict[Moment, dict[str, tuple[str, Row]]] = {}

    def rows_of(self, moment: Moment, table: str, condition: str, **parameters: Any) -> list[Row]:
        """The rows of a table at a moment, with the snapshot that wrote each."""
        if table not in self._lineage.filled:
            return []
        if is_versioned(table):
            if moment.version is None:
                return []
            condition = f"constitution_version = {literal(moment.version)} AND {condition}"
        return self._reader.rows(f"SELECT *, snapshot_id FROM {moment.table(table)} WHERE {condition}", **parameters)

    def rows_of_prompt(self, moment: Moment, table: str, prompt_id: str) -> list[Row]:
        """A prompt's rows in a table that no version has rows of its own in; they are looked for once."""
        key = moment.table(table), prompt_id
        if key not in self._rows_of_prompts:
            self._rows_of_prompts[key] = self.rows_of(moment, table, "prompt_id = $id", id=prompt_id)
        return self._rows_of_prompts[key]

    def prompt(self, moment: Moment, prompt_id: str, sample: int | None = None, rounds: int | None = None) -> Node:
        """A prompt, its first responses and the rounds of revision; of one sample and up to one round, where given."""
        rows = self.rows_of_prompt(moment, "prompts", prompt_id)
        if not rows:
            return self._imported_prompt(moment, prompt_id)
        (row,) = rows
        facts = {name: row[name] for name in ("source", "sources", "category", "split")}
        facts["snapshot"] = row["snapshot_id"]
        children = [
            *(
                node
                for table, kind in FIRST_RESPONSES.items()
                for node in self._responses(moment, table, kind, prompt_id, sample)
            ),
            *self._rounds(moment, prompt_id, sample, rounds),
        ]
        return Node("prompt", prompt_id, facts, {"messages": transcript(row["messages"])}, children)

    def _responses(self, moment: Moment, table: str, kind: str, prompt_id: str, sample: int | None) -> Iterable[Node]:
        for row in sorted(self.rows_of_prompt(moment, table, prompt_id), key=lambda row: row["sample"]):
            if sample in {None, row["sample"]}:
                facts = {name: row[name] for name in ("sample", "policy_model", "finish_reason")}
                facts["snapshot"] = row["snapshot_id"]
                requests = self._requests_of(row, "request_id")
                yield Node(kind, f"{prompt_id}/{row['sample']}", facts, _said(row, "completion", "reasoning"), requests)

    def _imported_prompt(self, moment: Moment, prompt_id: str) -> Node:
        """A prompt that is in no table but that of human preferences."""
        rows = self.rows_of(moment, "human_preferences", "prompt_id = $id LIMIT 1", id=prompt_id)
        if not rows:
            return Node("prompt", prompt_id, {"missing": "it is no longer in the table prompts"})
        row = rows[0]
        facts = {name: row[name] for name in ("source", "category", "split")} | {"snapshot": row["snapshot_id"]}
        return Node("prompt", prompt_id, facts, {"messages": transcript(row["prompt"])})

    def _rounds(self, moment: Moment, prompt_id: str, sample: int | None, rounds: int | None) -> list[Node]:
        found = self.rows_of(moment, "revision_rounds", "prompt_id = $id ORDER BY sample, round", id=prompt_id)
        kept = [row for row in found if sample in {None, row["sample"]} and (rounds is None or row["round"] <= rounds)]
        principles = self._texts_of_principles(moment) if kept else {}
        nodes: list[Node] = []
        for row in kept:
            slug, texts = principles.get(row["principle_id"], (None, dict[str, Any]()))
            facts = {name: row[name] for name in ("constitution_version", "sample", "round", "principle_id")}
            facts |= {"principle": slug, "snapshot": row["snapshot_id"]}
            asked = {name: texts[name] for name in ("critique_request", "revision_request") if texts}
            said = _said(row, "critique_reasoning", "critique", "revision_reasoning", "revision")
            requests = self._requests_of(row, "critique_request_id", "revision_request_id")
            name = f"{prompt_id}/{row['sample']}/{row['round']}"
            nodes.append(Node("revision round", name, facts, {**asked, **said}, requests))
        return nodes

    def _texts_of_principles(self, moment: Moment) -> dict[str, tuple[str, Row]]:
        if moment not in self._constitutions:
            rows = self.rows_of(moment, "constitution", "true")
            self._constitutions[moment] = {row["principle_id"]: (row["slug"], row) for row in rows}
        return self._constitutions[moment]

    def pair(self, moment: Moment, pair_id: str) -> Node:
        """A pair with its labels, its judgements and what its completions were made from."""
        rows = self.rows_of(moment, "response_pairs", "pair_id = $id", id=pair_id)
        if not rows:
            return self._pair_of_others(moment, pair_id)
        (row,) = rows
        facts = {name: row[name] for name in ("constitution_version", "prompt_id", "source")}
        facts["snapshot"] = row["snapshot_id"]
        texts = _said(row, "completion_0", "completion_1", "reasoning_0", "reasoning_1")
        children = [*self._labels(moment, pair_id, texts), *self._judgements(moment, "judgements", pair_id)]
        children += self._requests_of(row, "request_id_0", "request_id_1")
        return Node("pair", pair_id, facts, texts, [*children, self.prompt(moment, row["prompt_id"])])

    def _pair_of_others(self, moment: Moment, pair_id: str) -> Node:
        """A pair that people compared, two policies' answers, or two versions' revisions."""
        for row in self.rows_of(moment, "human_preferences", "pair_id = $id", id=pair_id):
            facts = {name: row[name] for name in ("source", "category", "split", "votes_chosen", "votes_rejected")}
            facts |= {"prompt_id": row["prompt_id"], "snapshot": row["snapshot_id"]}
            texts = {name: transcript(row[name]) for name in ("chosen", "rejected")}
            judged = self._judgements(moment, "calibration_judgements", pair_id)
            prompt = self.prompt(moment, row["prompt_id"])
            return Node("human preference", pair_id, facts, texts, [*judged, prompt])
        for row in self.rows_of(moment, "policy_judgements", "pair_id = $id LIMIT 1", id=pair_id):
            names = ("policy_0", "policy_1")
            answers = [self._answer(moment, row["prompt_id"], row[name]) for name in names]
            return self._compared(moment, "pair of policies", "policy_judgements", row, names, answers)
        for row in self.rows_of(moment, "version_judgements", "pair_id = $id LIMIT 1", id=pair_id):
            versions = (row["against"], row["constitution_version"])
            revisions = [self._final_revision(version, row["prompt_id"], row["sample"]) for version in versions]
            names = ("against", "sample")
            return self._compared(moment, "pair of versions", "version_judgements", row, names, revisions)
        raise TraceError(f"pair {pair_id} has no rows in constitution version {moment.version!r}")

    def _compared(
        self,
        moment: Moment,
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
        return Node(kind, row["pair_id"], facts, texts, [*children, self.prompt(moment, row["prompt_id"])])

    def _answer(self, moment: Moment, prompt_id: str, policy: str) -> tuple[str, Sequence[Node]] | None:
        """What a policy answered; None where that is no longer there."""
        for row in self.rows_of(
            moment, "policy_responses", f"prompt_id = $id AND policy = {literal(policy)}", id=prompt_id
        ):
            return row["completion"], self._requests_of(row, "request_id")
        return None

    def _final_revision(self, version: str, prompt_id: str, sample: int) -> tuple[str, Sequence[Node]] | None:
        condition = f"prompt_id = $id AND sample = {sample} ORDER BY round DESC LIMIT 1"
        for row in self.rows_of(Moment(version), "revision_rounds", condition, id=prompt_id):
            return row["revision"], self._requests_of(row, "revision_request_id")
        return None

    def _labels(self, moment: Moment, pair_id: str, completions: Mapping[str, str]) -> list[Node]:
        nodes: list[Node] = []
        for row in self.rows_of(moment, "preference_pairs", "pair_id = $id", id=pair_id):
            chosen = row["chosen"][0]["content"]
            facts = {name: row[name] for name in ("p_chosen", "label_policy", "split")}
            facts["chosen"] = next((name for name, text in completions.items() if text == chosen), None)
            facts["snapshot"] = row["snapshot_id"]
            nodes.append(Node("label", pair_id, facts))
        return nodes

    def _judgements(self, moment: Moment, table: str, pair_id: str) -> list[Node]:
        rows = self.rows_of(moment, table, 'pair_id = $id ORDER BY principle_id, "order"', id=pair_id)
        principles = self._texts_of_principles(moment) if rows else {}
        nodes: list[Node] = []
        for row in rows:
            named = [principles[one] for one in row["principle_ids"] if one in principles]
            facts = {
                "constitution_version": row["constitution_version"],
                "principles": [slug for slug, _ in named],
                "principle_id": row["principle_id"],
                "order": row["order"],
                "shown_as_a": "completion_0" if row["order"] == "01" else "completion_1",
                "p_a": math.exp(row["logp_a"]),
                "p_b": math.exp(row["logp_b"]),
                "p_completion_0": p_completion_0_of(row["logp_a"], row["logp_b"], row["order"]),
                "method": row["method"],
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
        # Tables of judgements differ in the calls that their rows name.
        ids = [(name, one) for name in columns for one in _as_list(row.get(name))]
        calls = self._ledger.calls(request_id for _, request_id in ids)
        return [
            request_node(request_id, calls.get(request_id), name, children=self.asked(calls.get(request_id)))
            for name, request_id in ids
        ]

    def asked(self, call: LedgerCall | None) -> list[Node]:
        """The checkpoint that a call was made of, where the model was trained here."""
        if call is None:
            return []
        return [_policy_node(one) for one in self._lineage.checkpoints if one.is_named_by(call.model_id)]

    def checkpoint(self, checkpoint: Checkpoint, examples: int) -> Node:
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

    def _training_rows(self, checkpoint: Checkpoint, rows: TableRows, examples: int) -> Iterable[Node]:
        """How many rows of a table it was trained on, the SQL that gives them back, and the first of them."""
        ids = [name for name in ("pair_id", "prompt_id", "sample", "round") if TABLES[rows.table].has(name)]
        counted, exact = self._lineage.read(checkpoint, rows, "count(*) AS n")
        sql = rows.select("t.*", checkpoint.as_of(rows.tables))
        facts = {"table": rows.table, "rows": counted[0]["n"], "exact": exact, "sql": " ".join(sql.split())}
        columns = ", ".join(f"t.{name}" for name in ids)
        found, _ = self._lineage.read(checkpoint, rows, columns, f"ORDER BY {columns} LIMIT {examples}")
        snapshot = checkpoint.snapshot_of(rows.table) if exact else None
        moment = Moment(checkpoint.constitution_version, snapshot)
        yield Node("training rows", rows.table, facts, {}, [self._training_row(moment, row) for row in found])

    def _training_row(self, moment: Moment, row: Row) -> Node:
        if "pair_id" in row:
            return self.pair(moment, row["pair_id"])
        sample, rounds = row.get("sample"), row.get("round")
        prompt = self.prompt(moment, row["prompt_id"], sample, rounds)
        if sample is None:
            return prompt
        name = "/".join(str(row[part]) for part in ("prompt_id", "sample", "round") if part in row)
        facts = {part: row[part] for part in ("prompt_id", "sample", "round") if part in row}
        return Node("example", name, facts, {}, [prompt])


def _said(row: Row, *columns: str) -> dict[str, str]:
    """The texts of a row, without thoughts that nobody had."""
    return {name: row[name] for name in columns if row[name] is not None}


def _policy_node(checkpoint: Checkpoint) -> Node:
    facts = {"asset": checkpoint.asset, "constitution_version": checkpoint.constitution_version}
    return Node("policy", checkpoint.key, facts)


def _as_list(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def request_node(
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
