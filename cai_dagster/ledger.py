"""The ledger: every model call ever paid for, by request id. It never forgets and never changes an answer.

It knows answers and ids, not what they were for beyond the slot's stage and prompt.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError

from cai_dagster.disk import full_disk_named
from cai_dagster.requests import Answer, PaidCall

SCHEMA_VERSION = 1
_IDS_A_QUERY = 500

_metadata = sa.MetaData()
_calls = sa.Table(
    "calls",
    _metadata,
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("model_id", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("prompt_id", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("finish_reason", sa.Text, nullable=False),
    sa.Column("logprobs", sa.Text),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False, server_default=sa.func.current_timestamp()),
)
_schema_version = sa.Table("ledger_schema", _metadata, sa.Column("version", sa.Integer, primary_key=True))


class LedgerError(RuntimeError):
    """The ledger cannot be used; the message says why and what to do."""


class Ledger:
    """The calls in one database: a SQLite file (in WAL mode, for several processes) or a SQLAlchemy URL."""

    def __init__(self, database: Path | str) -> None:
        if isinstance(database, Path):
            database.parent.mkdir(parents=True, exist_ok=True)
            self._room = lambda: full_disk_named(database.parent)
            self._engine = sa.create_engine(f"sqlite:///{database}", connect_args={"timeout": 60})
            event.listen(self._engine, "connect", _use_wal)
            with self._room(), FileLock(f"{database}.lock"):  # several processes may find that there is none yet
                self._prepare()
        else:
            self._room = contextlib.nullcontext[None]  # another machine's disk
            self._engine = sa.create_engine(database)
            self._prepare()

    def get(self, request_ids: Sequence[str]) -> dict[str, Answer]:
        """The answers there are, by request id."""
        found: dict[str, Answer] = {}
        with self._engine.connect() as connection:
            for start in range(0, len(request_ids), _IDS_A_QUERY):
                ids = request_ids[start : start + _IDS_A_QUERY]
                for row in connection.execute(sa.select(_calls).where(_calls.c.request_id.in_(ids))):
                    found[row.request_id] = Answer(
                        text=row.text,
                        finish_reason=row.finish_reason,
                        prompt_tokens=row.prompt_tokens,
                        completion_tokens=row.completion_tokens,
                        seconds=row.seconds,
                        logprobs=tuple(json.loads(row.logprobs)) if row.logprobs else None,
                    )
        return found

    def put(self, calls: Iterable[PaidCall]) -> set[str]:
        """Commit calls in one transaction. An answer that is there already stays: the first paid for is the one.

        Returns the ids of the calls whose answer in the ledger is now another than the one given. Raises
        DiskFullError, and keeps none of them, when there is no room.
        """
        paid = {call.request_id: call for call in reversed(list(calls))}
        rows = [_row(call) for call in paid.values()]
        if not rows:
            return set()
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        with self._room(), self._engine.begin() as connection:
            added = connection.execute(dialect.insert(_calls).on_conflict_do_nothing(), rows).rowcount
        if added == len(rows):
            return set()
        kept = self.get(list(paid))
        return {request_id for request_id, call in paid.items() if not kept[request_id].says_the_same(call.answer)}

    def totals(self) -> Mapping[str, int]:
        """Number of calls by stage."""
        query = sa.select(_calls.c.stage, sa.func.count()).group_by(_calls.c.stage)
        with self._engine.connect() as connection:
            return dict(connection.execute(query).tuples().all())

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _prepare(self) -> None:
        try:
            _metadata.create_all(self._engine)
            self._check_schema()
        except DatabaseError as error:
            raise LedgerError(f"the ledger {self._engine.url} cannot be used: {error.orig}") from error

    def _check_schema(self) -> None:
        with self._engine.begin() as connection:
            version = connection.execute(sa.select(_schema_version.c.version)).scalar()
            if version is None:
                connection.execute(_insert_version(self._engine.dialect.name))
            elif version != SCHEMA_VERSION:
                raise LedgerError(
                    f"the ledger has schema version {version}, this program writes {SCHEMA_VERSION}; "
                    "use the version of cai_dagster that wrote it, or set CAI_HOME to a new folder"
                )


def _row(call: PaidCall) -> dict[str, Any]:
    return {
        "request_id": call.request_id,
        "model_id": call.model_id,
        "stage": call.slot.stage,
        "prompt_id": call.slot.prompt_id,
        "text": call.answer.text,
        "finish_reason": call.answer.finish_reason,
        "logprobs": None if call.answer.logprobs is None else json.dumps(call.answer.logprobs),
        "prompt_tokens": call.answer.prompt_tokens,
        "completion_tokens": call.answer.completion_tokens,
        "seconds": call.answer.seconds,
    }


def _insert_version(dialect_name: str) -> sa.Executable:
    dialect = postgresql if dialect_name == "postgresql" else sqlite
    return dialect.insert(_schema_version).values(version=SCHEMA_VERSION).on_conflict_do_nothing()


def _use_wal(connection: Any, _record: object) -> None:
    """Readers and one writer at a time go on together; a commit survives the death of the process."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
