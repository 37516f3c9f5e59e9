"""Removing a prompt for good: from every table and the ledger, and, with the old snapshots, from the disk.

The prompt's id stays on the list of forgotten prompts, so that it does not come back from its file. What lies elsewhere
is named, not touched: files it was read from, exports, reports, Dagster's event log, the weights trained on it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cai_dagster.errors import MendableError
from cai_dagster.forgotten_prompts import add_forgotten_prompt, forgotten_prompts
from cai_dagster.hashing import ROW_ID_DIGITS
from cai_dagster.home import Home
from cai_dagster.lake import Lake
from cai_dagster.lake_reader import LakeReader, literal
from cai_dagster.ledger import Ledger
from cai_dagster.row_lineage import RowLineage, Trained

SHORT_TEXT = 20  # characters: a shorter text is looked for as a whole JSON value, for it may be part of any other
_APPENDED = ("materializations", "check_results")  # accounts and measurements: they name no prompt


class ForgetError(MendableError):
    """No prompt, or several, have the id; the message says which."""


@dataclass(frozen=True)
class Remembered:
    """What there is of one prompt, before it is forgotten.

    `rows` by table, of all versions; `snapshots` are those that were written before now and still hold it;
    `elsewhere` are places that are not touched.
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
    tables = _columns(reader)
    prompt_id = _prompt_id(reader, tables, prompt)
    pair_ids = _pair_ids(reader, tables, prompt_id)
    conditions = _conditions(tables, prompt_id, pair_ids, _texts(reader, prompt_id))
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
        ledger_calls=Ledger(home.ledger).calls_of(prompt_id),
        checkpoints=lineage.that_saw(lineage.of_prompt(prompt_id)),
        snapshots=[
            row["id"] for row in reader.rows("SELECT snapshot_id AS id FROM ducklake_snapshots('lake') ORDER BY id")
        ],
        sources=_sources(reader, prompt_id),
        elsewhere=_elsewhere(home),
        forgotten_before=prompt_id in forgotten_prompts(home),
        conditions={table: condition for table, condition in conditions.items() if table in rows},
    )
    reader.close()
    if not (found.any_rows or found.forgotten_before):
        raise ForgetError(f"nothing in this home has the prompt id {prompt!r}; `cai trace` finds what an id is of")
    return found


def forget(home: Home, found: Remembered) -> None:
    """Remove it from the tables, in one transaction, and from the ledger. Where it is interrupted, do it again."""
    add_forgotten_prompt(home, found.prompt_id)  # first: a run that begins now must not bring it back
    if found.conditions:
        lake = Lake(home)
        lake.delete(found.conditions)
        lake.close()
    Ledger(home.ledger).forget(found.prompt_id)


def expire_snapshots(home: Home) -> int:
    """Make every snapshot but the current one go, and with them what they hold; how many there were."""
    return Lake(home).expire_snapshots()


def _columns(reader: LakeReader) -> dict[str, list[str]]:
    """Table → its columns, of every table in the lake."""
    query = """
        SELECT table_name, list(column_name) AS columns FROM duckdb_columns() WHERE database_name = 'lake' GROUP BY ALL
    """
    return {row["table_name"]: row["columns"] for row in reader.rows(query)}


def _prompt_id(reader: LakeReader, tables: Mapping[str, Sequence[str]], prompt: str) -> str:
    if re.fullmatch(rf"[0-9a-f]{{{ROW_ID_DIGITS}}}", prompt):
        return prompt
    having = [table for table, columns in tables.items() if "prompt_id" in columns]
    if not re.fullmatch(r"[0-9a-f]{4,}", prompt):
        raise ForgetError(f"{prompt!r} is no prompt id: give at least four of its {ROW_ID_DIGITS} digits")
    ids = " UNION ALL ".join(f"SELECT prompt_id FROM lake.{table}" for table in having)
    query = f"SELECT DISTINCT prompt_id AS id FROM ({ids}) WHERE starts_with(prompt_id, $id) ORDER BY id LIMIT 6"
    found = [row["id"] for row in reader.rows(query, id=prompt)]
    if len(found) != 1:
        named = f"is the beginning of several: {', '.join(found)}" if found else "is the beginning of no prompt's id"
        raise ForgetError(f"{prompt!r} {named}")
    return found[0]


def _pair_ids(reader: LakeReader, tables: Mapping[str, Sequence[str]], prompt_id: str) -> list[str]:
    having = [table for table, columns in tables.items() if {"prompt_id", "pair_id"} <= set(columns)]
    ids = " UNION ALL ".join(f"SELECT pair_id FROM lake.{table} WHERE prompt_id = $id" for table in having)
    return [row["id"] for row in reader.rows(f"SELECT DISTINCT pair_id AS id FROM ({ids}) ORDER BY id", id=prompt_id)]


def _texts(reader: LakeReader, prompt_id: str) -> list[str]:
    """The prompt's last turn: rows that were set aside may hold it under no id."""
    query = """
        SELECT DISTINCT messages[-1].content AS text FROM (
            SELECT messages FROM lake.prompts WHERE prompt_id = $id
            UNION ALL SELECT prompt FROM lake.human_preferences WHERE prompt_id = $id
        )
    """
    return [row["text"] for row in reader.rows(query, id=prompt_id)]


def _conditions(
    tables: Mapping[str, Sequence[str]], prompt_id: str, pair_ids: Sequence[str], texts: Sequence[str]
) -> dict[str, str]:
    """Which rows of each table are the prompt's."""
    pairs = ", ".join(map(literal, pair_ids)) or "NULL"
    conditions: dict[str, str] = {}
    for table, columns in tables.items():
        own = [f"prompt_id = {literal(prompt_id)}"] if "prompt_id" in columns else []
        own += [f"pair_id IN ({pairs})"] if "pair_id" in columns else []
        if not own and table not in _APPENDED:  # what other tables say of it: rejected rows, examples in a comparison
            named = [prompt_id, *pair_ids, *(_in_json(text) for text in texts)]
            whole = " || ' ' || ".join(f"coalesce({column}::VARCHAR, '')" for column in columns)
            own = [f"contains({whole}, {literal(name)})" for name in named]
        if own:
            conditions[table] = " OR ".join(own)
    return conditions


def _in_json(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if len(text) < SHORT_TEXT else quoted[1:-1]


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
