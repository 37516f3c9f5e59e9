"""Looking calls up in the ledger at once: SQLAlchemy takes longer to import than a look-up takes. It writes nothing.

Only by request id or its beginning, which is the ledger's index: nothing here scans it.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cai_dagster.calls.ledger_sql import each_of_ids
from cai_dagster.calls.stored_text import restored
from cai_dagster.disk import read_only_uri
from cai_dagster.home import Home

if TYPE_CHECKING:
    from cai_dagster.calls.ledger import Ledger

_CALL = """
    SELECT c.request_id, stage, prompt_id, model_id, prompt_tokens, completion_tokens, seconds,
        cast(c.created_at AS text),
        finish_reason, text, logprobs, r.reason, escaped
    FROM calls c LEFT JOIN retries r USING (request_id)
"""


@dataclass(frozen=True)
class LedgerCall:
    """A call as the ledger keeps it; `retried_for` is why a user had it made again (`cai retry`)."""

    request_id: str
    stage: str
    prompt_id: str
    model_id: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    created_at: str
    finish_reason: str
    text: str
    logprobs: str | None
    retried_for: str | None


class LedgerReader:
    """The calls in one home's ledger; a home without one has none."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def calls(self, request_ids: Iterable[str]) -> dict[str, LedgerCall]:
        """The calls there are, by request id."""
        each = each_of_ids(postgresql=self._home.shared_ledger is not None)
        ids = json.dumps(sorted(set(request_ids)))
        return self._found(f"{_CALL} WHERE c.request_id IN (SELECT id FROM {each})", ids=ids)

    def beginning_with(self, digits: str, most: int) -> dict[str, LedgerCall]:
        """Up to `most` calls whose id begins with these hex digits."""
        condition = "WHERE c.request_id BETWEEN :first AND :last LIMIT :most"
        return self._found(f"{_CALL} {condition}", first=digits, last=f"{digits}g", most=most)

    def _found(self, query: str, **parameters: Any) -> dict[str, LedgerCall]:
        rows = self._read(query, parameters)
        calls = [(LedgerCall(*row[:-1]), bool(row[-1])) for row in rows]
        return {call.request_id: replace(call, text=restored(call.text, escaped)) for call, escaped in calls}

    def _read(self, query: str, parameters: dict[str, Any]) -> Iterable[Any]:
        if self._home.shared_ledger:
            return self._shared.read(query, parameters)
        return self._connection.execute(query, parameters) if self._connection else ()

    @cached_property
    def _shared(self) -> "Ledger":
        from cai_dagster.calls.ledger import open_ledger

        return open_ledger(self._home)

    @cached_property
    def _connection(self) -> sqlite3.Connection | None:
        file = self._home.ledger
        if not file.exists():
            return None
        return sqlite3.connect(read_only_uri(file), uri=True, timeout=60)
