"""Resolves an id: a prompt, a pair, a principle, a checkpoint or a call; the beginning of an id is enough."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from cai_dagster.calls.ledger_reader import LedgerReader
from cai_dagster.explain.nodes import Kind, TraceError
from cai_dagster.explain.row_lineage import RowLineage
from cai_dagster.explain.rows import RowCount, tables_of_pairs
from cai_dagster.home import Home
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.lake.reader import LakeReader, Row
from cai_dagster.tables.registry import tables_with
from cai_dagster.text import did_you_mean

MOST_NAMED = 10  # ids in an error
FEWEST_DIGITS = 4
ROW_ID, REQUEST_ID = 32, 64  # digits of an id that nothing is missing of
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True)
class Found:
    """What an id is the id of; a principle may have several ids under one slug."""

    kind: Kind
    id: str
    ids: Sequence[str]


class Identifiers:
    """The ids in one home."""

    def __init__(self, home: Home, reader: LakeReader, ledger: LedgerReader, lineage: RowLineage) -> None:
        self._home = home
        self._reader = reader
        self._ledger = ledger
        self._lineage = lineage

    def find(self, identifier: str) -> Found:
        """What has the id, or the only id that begins so; raises TraceError where there is none, or several."""
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
            "key or request_id (or the beginning of one), or a principle's slug, as they are in the tables"
            f"{did_you_mean(identifier, {row['slug'] for row in self.editions}) or '.'}"
        )

    def _prompts(self, identifier: str) -> Iterable[Found]:
        if len(identifier) == ROW_ID:
            whole = "SELECT 1 FROM lake.prompts WHERE prompt_id = $id LIMIT 1"
            return [Found("prompt", identifier, [identifier])] if self._reader.rows(whole, id=identifier) else []
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
        for row in self.editions if identifier else []:
            if row["slug"].startswith(identifier):
                ids_of.setdefault(row["slug"], []).append(row["principle_id"])
            if _is_beginning(identifier, ROW_ID) and row["principle_id"].startswith(identifier):
                yield Found("principle", row["principle_id"], [row["principle_id"]])
        for slug, ids in ids_of.items():
            yield Found("principle", slug, ids)

    @cached_property
    def editions(self) -> list[Row]:
        """Each principle's texts under each of its slugs, with the versions that have them; the last written first."""
        query = """
            SELECT principle_id, slug, critique_request, revision_request, comparison_request,
                list(constitution_version ORDER BY constitution_version) AS versions,
                list(weight ORDER BY constitution_version) AS weights,
                list(snapshot_id ORDER BY constitution_version) AS snapshots
            FROM lake.constitution GROUP BY ALL ORDER BY max(snapshot_id) DESC, slug
        """
        return self._reader.rows(query)

    def editions_by_version(self, principle_ids: Sequence[str]) -> list[RowCount]:
        """In how many rows of `constitution` each version has these principles."""
        snapshots: dict[str, list[int]] = {}
        for row in self.editions:
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


def _is_beginning(identifier: str, digits: int) -> bool:
    return bool(_HEX.fullmatch(identifier)) and FEWEST_DIGITS <= len(identifier) <= digits
