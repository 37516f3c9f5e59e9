"""Removing a prompt for good: from every table and the ledger, and, with the old snapshots, from the disk.

The prompt's id stays on the list of forgotten prompts, so that it does not come back from its file. What lies elsewhere
is named, not touched: files it was read from, exports, reports, Dagster's event log, the weights trained on it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from cai_dagster.calls.ledger import open_ledger
from cai_dagster.errors import MendableError
from cai_dagster.explain.checkpoints import Trained
from cai_dagster.explain.row_lineage import RowLineage
from cai_dagster.hashing import ROW_ID_DIGITS
from cai_dagster.home import Home
from cai_dagster.lake.connection import literal
from cai_dagster.lake.forgotten_prompts import add_forgotten_prompt, forgotten_prompts
from cai_dagster.lake.history import LakeHistory
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.queries import of_prompts
from cai_dagster.lake.reader import LakeReader
from cai_dagster.lake.snapshots import FORGET_RUN
from cai_dagster.tables.registry import TABLES, tables_with

_SPEAKERS = ("Human", "Assistant")
_PARAGRAPH = r"\n\n"  # in JSON
SHORT_TEXT = 20  # characters: a prompt with no longer turn is looked for as a whole, for it may be part of any other


class ForgetError(MendableError):
    """No prompt, or several, have the id; the message says which."""


@dataclass(frozen=True)
class Remembered:
    """What there is of one prompt, before it is forgotten.

    `rows` by table, of all versions, as they are now; `snapshots` are those that hold a row of it; `elsewhere` are
    places that are not touched.
    """

    prompt_id: str
    pair_ids: Sequence[str]
    rows: Mapping[str, int]
    ledger_calls: int
    checkpoints: Sequence[Trained]
    snapshots: Sequence[int]
    sources: Sequence[str]
    elsewhere: Sequence[str]
    forgotten_before: bool
    conditions: Mapping[str, str]

    @property
    def any_rows(self) -> bool:
        """Whether a table or the ledger has something of it."""
        return bool(self.rows) or self.ledger_calls > 0

    def to_json(self) -> dict[str, Any]:
        """As `cai forget --json` prints it; docs/explain.md describes the keys."""
        return {
            "prompt_id": self.prompt_id,
            "rows": dict(self.rows),
            "ledger_calls": self.ledger_calls,
            "checkpoints": [one.to_json() for one in self.checkpoints],
            "snapshots": list(self.snapshots),
            "sources": list(self.sources),
            "elsewhere": list(self.elsewhere),
            "forgotten_before": self.forgotten_before,
        }


def remembered(home: Home, prompt: str) -> Remembered:
    """What there is of a prompt; `prompt` is its id, or the first digits of the id of one that is in the tables.

    Raises ForgetError where nothing has the id and it is not on the list of forgotten prompts, or several have it.
    """
    reader = LakeReader(home)
    history = _History(reader)
    prompt_id = _prompt_id(reader, prompt)
    pair_ids = history.pair_ids(prompt_id)
    dialogues = history.dialogues(prompt_id)
    conditions = _conditions(prompt_id, pair_ids, dialogues)
    rows = {
        table: count
        for table, condition in conditions.items()
        if (count := reader.rows(f"SELECT count(*) AS n FROM lake.{table} WHERE {condition}")[0]["n"])
    }
    lineage = RowLineage(reader, home)
    found = Remembered(
        prompt_id=prompt_id,
        pair_ids=pair_ids,
        rows=rows,
        ledger_calls=open_ledger(home).calls_of(prompt_id),
        checkpoints=lineage.that_saw(lineage.of_prompt(prompt_id)),
        snapshots=history.holding(conditions),
        sources=_sources(reader, prompt_id),
        elsewhere=[*_constitutions_with(reader, dialogues), *_elsewhere(home)],
        forgotten_before=prompt_id in forgotten_prompts(home),
        conditions={table: condition for table, condition in conditions.items() if table in rows},
    )
    reader.close()
    if not (found.any_rows or found.snapshots or found.forgotten_before):
        raise ForgetError(f"nothing in this home has the prompt id {prompt!r}; `cai trace` finds what an id is of")
    return found


def forget(home: Home, found: Remembered) -> None:
    """Remove it from the tables, in one transaction, and from the ledger. Where it is interrupted, do it again."""
    add_forgotten_prompt(home, found.prompt_id, found.pair_ids)  # first: no run may bring it back from now on
    if found.conditions:
        lake = Lake(home)
        lake.delete(found.conditions)
        lake.close()
    open_ledger(home).forget(found.prompt_id)


def expire_snapshots(home: Home) -> int:
    """Make every snapshot but the current one go, and with them what they hold; how many there were."""
    return Lake(home).expire_snapshots()


class _History:
    """The rows of a prompt in every snapshot there is, not only as they are now."""

    def __init__(self, reader: LakeReader) -> None:
        self._reader = reader
        self._lake = LakeHistory(reader)

    def pair_ids(self, prompt_id: str) -> list[str]:
        """The pairs that a prompt has, or had in a snapshot that can still be read."""
        own = f"prompt_id = {literal(prompt_id)}"
        tables = tables_with("prompt_id", "pair_id")
        ids = " UNION ALL ".join(self._lake.ever(table, "pair_id AS id", own) for table in tables)
        return [row["id"] for row in self._reader.rows(f"SELECT DISTINCT id FROM ({ids}) ORDER BY id")]

    def dialogues(self, prompt_id: str) -> list[list[str]]:
        """The prompt's turns, as each table has them: rows that were set aside may hold them under no id."""
        own = f"prompt_id = {literal(prompt_id)}"
        rows = " UNION ".join(
            self._lake.ever(table, f"list_transform({column}, one -> one.content) AS turns", own)
            for table, column in (("prompts", "messages"), ("human_preferences", "prompt"))
        )
        return [row["turns"] for row in self._reader.rows(f"SELECT DISTINCT turns FROM ({rows}) ORDER BY turns")]

    def holding(self, conditions: Mapping[str, str]) -> list[int]:
        """The snapshots in which a row of a table fulfils the table's condition, the latest last.

        A row is there from the commit that wrote it to the one that next replaced its table (and version), or to the
        last forgetting there.
        """
        what = {
            table: f"{literal(table)} AS name, {_version_of(table)} AS version, snapshot_id AS born"
            for table in conditions
        }
        born = " UNION ".join(self._lake.ever(table, what[table], rows) for table, rows in conditions.items())
        alive = " UNION ".join(
            f"SELECT {what[table]} FROM lake.{table} WHERE {rows}" for table, rows in conditions.items()
        )
        replaced = """
            SELECT name, version, born, (name, version, born) IN (SELECT (name, version, born) FROM alive) AS alive,
                min(snapshot_id) FILTER (run_id <> $forget) AS replaced, max(snapshot_id) AS forgotten
            FROM born LEFT JOIN (SELECT *, snapshot_id FROM lake.materializations) m ON m.table_name = name
                AND m.constitution_version IS NOT DISTINCT FROM version AND m.snapshot_id > born GROUP BY ALL
        """
        query = f"WITH born AS ({born}), alive AS ({alive}) {replaced}"
        held: set[int] = set()
        for row in self._reader.rows(query, forget=FORGET_RUN):
            gone = row["replaced"] or row["forgotten"] or row["born"] + 1
            end = self._lake.snapshots[-1] + 1 if row["alive"] else gone
            held.update(one for one in self._lake.snapshots if row["born"] <= one < end)
        return sorted(held)


def _version_of(table: str) -> str:
    return "constitution_version" if TABLES[table].has("constitution_version") else "NULL"


def _prompt_id(reader: LakeReader, prompt: str) -> str:
    if re.fullmatch(rf"[0-9a-f]{{{ROW_ID_DIGITS}}}", prompt):
        return prompt
    if not re.fullmatch(r"[0-9a-f]{4,}", prompt):
        raise ForgetError(f"{prompt!r} is no prompt id: give at least four of its {ROW_ID_DIGITS} digits")
    ids = " UNION ALL ".join(f"SELECT prompt_id FROM lake.{table}" for table in tables_with("prompt_id"))
    query = f"SELECT DISTINCT prompt_id AS id FROM ({ids}) WHERE starts_with(prompt_id, $id) ORDER BY id LIMIT 6"
    found = [row["id"] for row in reader.rows(query, id=prompt)]
    if len(found) != 1:
        named = f"is the beginning of several: {', '.join(found)}" if found else "is the beginning of no prompt's id"
        raise ForgetError(f"{prompt!r} {named}")
    return found[0]


def _conditions(prompt_id: str, pair_ids: Sequence[str], dialogues: Sequence[Sequence[str]]) -> dict[str, str]:
    """Which rows of each table are the prompt's; tables that name neither prompts nor pairs have none."""
    ids = (prompt_id, *pair_ids)
    conditions = {name: rows for name, table in TABLES.items() if (rows := of_prompts(table, ids))}
    conditions["rejected_rows"] += "".join(f" OR {_has_dialogue(turns)}" for turns in dialogues)
    return conditions


def _has_dialogue(turns: Sequence[str]) -> str:
    """SQL for a row that was set aside and has all turns: as parts of its texts, where one of them is long.

    Short ones may be part of any text: they are looked for as whole values, and as a transcript of hh-rlhf.
    """
    quoted = [json.dumps(turn, ensure_ascii=False) for turn in turns]
    if max(map(len, turns)) >= SHORT_TEXT:
        return " AND ".join(f'contains("row", {literal(one[1:-1])})' for one in quoted)
    values = " AND ".join(f'contains("row", {literal(one)})' for one in quoted)
    transcript = "".join(f"{speaker}: {one[1:-1]}{_PARAGRAPH}" for speaker, one in zip(cycle(_SPEAKERS), quoted))
    return f'({values} OR contains("row", {literal(transcript)}))'


def _constitutions_with(reader: LakeReader, dialogues: Sequence[Sequence[str]]) -> list[str]:
    """Few-shot examples that have the prompt: somebody wrote them into a file, which is where they are removed."""
    prompts = "list_transform(dialogues, one -> one.prompt) || list_transform(comparisons, one -> one.prompt)"
    query = f"""
        SELECT DISTINCT constitution_version AS version FROM lake.constitution
        WHERE list_has_any({prompts}, [$texts]) ORDER BY version
    """
    rows = reader.rows(query, texts=[turns[-1] for turns in dialogues])
    return [f"constitutions/{row['version']}.yaml: a few-shot example has the same prompt" for row in rows]


def _sources(reader: LakeReader, prompt_id: str) -> list[str]:
    query = """
        SELECT unnest(sources) AS source FROM lake.prompts WHERE prompt_id = $id
        UNION SELECT source FROM lake.human_preferences WHERE prompt_id = $id ORDER BY source
    """
    return [row["source"] for row in reader.rows(query, id=prompt_id)]


def _elsewhere(home: Home) -> list[str]:
    places = {
        home.dagster: "Dagster's event log: previews of rows in the metadata of materializations and checks",
        home.reports: "reports (`cai report`)",
    }
    known = [f"{path}: {what}" for path, what in places.items() if path.exists()]
    return [
        *known,
        "exports (`cai export`), pages and reports that were written to other folders, backups of this home",
    ]
