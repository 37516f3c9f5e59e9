"""The ledger: every model call ever paid for, by request id. It never forgets and never changes an answer.

It knows answers and ids, not what they were for beyond the slot's stage and prompt.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError

from cai_dagster.calls.checksums import CHECKED, checksum
from cai_dagster.calls.claims import Claims, leases_beside
from cai_dagster.calls.ledger_schema import SCHEMA_VERSION, calls, claims, metadata, refusal_of, retries, schema_version
from cai_dagster.calls.ledger_sql import each_of_ids
from cai_dagster.calls.requests import Answer, PaidCall
from cai_dagster.calls.stored_text import restored, stored
from cai_dagster.disk import full_disk_named, is_read_only, read_only_uri
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.lake.lost_connections import waits_for_the_server
from cai_dagster.lake.postgresql import LEDGER_FORGETTING, LEDGER_SCHEMA, connections

READ_ROWS = 10_000  # at once, where all calls are read
CACHE_KIB = 196_608  # of the index, whose pages are hit at random: ids are hashes

_answer_columns = [
    calls.c[name]
    for name in (
        *("request_id", "text", "escaped", "finish_reason"),
        *("prompt_tokens", "completion_tokens", "seconds", "logprobs"),
    )
]


class LedgerError(MendableError):
    """The ledger cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class CallLengths:
    """Tokens of the calls of one model in one stage: means, and the variances of prompts and completions.

    `longest` is the longest completion, `cut` the share of completions that were ended by max_tokens.
    """

    model_id: str
    stage: str
    calls: int
    prompt_mean: float
    prompt_variance: float
    completion_mean: float
    completion_variance: float
    longest: int
    cut: float


class Ledger:
    """The calls in one database: a SQLite file (in WAL mode, for several processes) or that of a `postgresql://` URL.

    Calls of the prompts that `forgotten` names are not kept.
    """

    def __init__(self, database: Path | str, forgotten: Callable[[], Set[str]] = frozenset[str]) -> None:
        self._forgotten = forgotten
        if isinstance(database, Path) and is_read_only(database.parent):
            self._room, self._leases = contextlib.nullcontext[None], None
            self._engine = sa.create_engine(f"sqlite:///{read_only_uri(database)}&uri=true")
            self._refuse_other_schemas()
        elif isinstance(database, Path):
            database.parent.mkdir(parents=True, exist_ok=True)
            self._room = lambda: full_disk_named(database.parent)
            self._leases = leases_beside(database)
            self._engine = sa.create_engine(f"sqlite:///{database}", connect_args={"timeout": 60})
            event.listen(self._engine, "connect", _use_wal)
            with self._room(), FileLock(f"{database}.lock"):  # several processes may find that there is none yet
                self._prepare()
        else:
            self._room = contextlib.nullcontext[None]  # another machine's disk
            self._leases = None
            self._engine = connections(database)
            self._prepare()

    @waits_for_the_server
    def get(self, request_ids: Sequence[str]) -> dict[str, Answer]:
        """The answers there are, by request id."""
        with self._engine.connect() as connection:
            rows: Any = connection.execute(self._answers, {"ids": json.dumps(list(request_ids))}).tuples()
            return {
                request_id: Answer(restored(text, escaped), end, prompt, completion, seconds, _logprobs(logprobs))
                for request_id, text, escaped, end, prompt, completion, seconds, logprobs in rows
            }

    @waits_for_the_server
    def put(self, paid_calls: Iterable[PaidCall]) -> set[str]:
        """Commit calls in one transaction. An answer that is there already stays: the first paid for is the one.

        Returns the ids of the calls whose answer in the ledger is now another than the one given. Raises
        DiskFullError, and keeps none of them, when there is no room.
        """
        paid = {call.request_id: call for call in reversed(list(paid_calls))}
        rows = [_row(call) for _, call in sorted(paid.items())]  # neighbours in the index are written together
        if not rows:
            return set()
        with self._room(), self._engine.begin() as connection:
            self._lock(connection, LEDGER_FORGETTING, shared=True)
            # By the driver itself: for many rows SQLAlchemy's own part costs more than the database's.
            insert = self._insert_into(calls).on_conflict_do_nothing()
            statement: Any = insert.compile(self._engine, column_keys=list(rows[0]))
            parameters: Any = [tuple(row.values()) for row in rows] if statement.positional else rows
            added = connection.exec_driver_sql(str(statement), parameters).rowcount
            connection.execute(self._settled, {"ids": json.dumps(list(paid))})
            # Asked for once the database is ours to write: what is forgotten from now on is removed after us.
            refused = self._forgotten() & {call.slot.prompt_id for call in paid.values()}
            if refused:
                connection.execute(sa.delete(calls).where(calls.c.prompt_id.in_(refused)))
        if added == len(rows):
            return set()
        kept = self.get(list(paid))
        return {request_id for request_id, answer in kept.items() if not answer.says_the_same(paid[request_id].answer)}

    def retry(self, request_ids: Iterable[str], reason: str, max_tokens: int | None = None) -> None:
        """Have these calls made again when they are next asked for; the answers there are stay where they are."""
        rows = [{"request_id": request_id, "reason": reason, "max_tokens": max_tokens} for request_id in request_ids]
        if rows:
            with self._room(), self._engine.begin() as connection:
                insert = self._insert_into(retries)
                latest = {name: insert.excluded[name] for name in ("reason", "max_tokens")}
                connection.execute(insert.on_conflict_do_update(index_elements=["request_id"], set_=latest), rows)

    @waits_for_the_server
    def retries(self) -> Mapping[str, int | None]:
        """The calls that are to be made again, with the longest answer asked for then (None: as before)."""
        with self._engine.connect() as connection:
            return dict(connection.execute(sa.select(retries.c.request_id, retries.c.max_tokens)).tuples().all())

    def lengths(self) -> list[CallLengths]:
        """Tokens of the calls paid for, by model and stage."""
        is_cut = sa.and_(calls.c.finish_reason == "length", calls.c.logprobs.is_(None))
        query = sa.select(
            calls.c.model_id,
            calls.c.stage,
            sa.func.count(),
            *_moments(calls.c.prompt_tokens),
            *_moments(calls.c.completion_tokens),
            sa.func.max(calls.c.completion_tokens),
            sa.func.avg(sa.case((is_cut, 1.0), else_=0.0)),
        ).group_by(calls.c.model_id, calls.c.stage)
        with self._engine.connect() as connection:
            rows: list[Any] = list(connection.execute(query).tuples())
        return [
            CallLengths(
                *(model_id, stage, count),
                *_mean_and_variance(prompt, prompt_square),
                *_mean_and_variance(completion, completion_square),
                longest,
                float(cut),
            )
            for model_id, stage, count, prompt, prompt_square, completion, completion_square, longest, cut in rows
        ]

    def totals(self) -> Mapping[str, int]:
        """Number of calls by stage."""
        query = sa.select(calls.c.stage, sa.func.count()).group_by(calls.c.stage)
        with self._engine.connect() as connection:
            return dict(connection.execute(query).tuples().all())

    def calls_of(self, prompt_id: str) -> int:
        """How many calls were made for a prompt. Looks at every call: there is no index."""
        query = sa.select(sa.func.count()).where(calls.c.prompt_id == prompt_id)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one()

    def forget(self, prompt_id: str) -> int:
        """Remove the calls that were made for a prompt, and leave nothing of them in the database's file; how many.

        PostgreSQL keeps what was deleted until its own VACUUM.
        """
        made = sa.select(calls.c.request_id).where(calls.c.prompt_id == prompt_id)
        with self._room(), self._engine.begin() as connection:
            self._lock(connection, LEDGER_FORGETTING)
            connection.execute(sa.delete(retries).where(retries.c.request_id.in_(made)))
            forgotten = connection.execute(sa.delete(calls).where(calls.c.prompt_id == prompt_id)).rowcount
        if self._engine.dialect.name == "sqlite":
            with self._room(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM")
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return forgotten

    def read(self, query: str, parameters: Mapping[str, Any]) -> list[Any]:
        """The rows of a SELECT with named parameters."""
        with self._engine.connect() as connection:
            return list(connection.execute(sa.text(query), dict(parameters)).tuples())

    def altered(self) -> list[str]:
        """The calls whose checksum does not fit what is stored of them: a bit of it flipped."""
        columns = [calls.c[name] for name in (*CHECKED, "checksum")]
        with self._engine.connect().execution_options(yield_per=READ_ROWS) as connection:
            rows = connection.execute(sa.select(*columns)).tuples()
            return [stored[0] for *stored, written in rows if checksum(tuple(stored)) != written]

    def claims(self) -> Claims:
        """What a run claims before it pays."""
        return Claims(self._engine, self._leases)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _prepare(self) -> None:
        try:
            self._refuse_other_schemas()
            with self._engine.begin() as connection:
                self._lock(connection, LEDGER_SCHEMA)  # several hosts may find that there is none yet
                metadata.create_all(connection)
                current = {"version": SCHEMA_VERSION}
                connection.execute(self._insert_into(schema_version).on_conflict_do_nothing(), current)
        except DatabaseError as error:
            raise LedgerError(
                f"the ledger {self._engine.url.render_as_string()} cannot be used: {error.orig}. Where it is damaged: "
                "put a copy of it back, or have `cai doctor --salvage` make it anew. `cai doctor` looks at it"
            ) from error

    def _refuse_other_schemas(self) -> None:
        """Before anything is written: a ledger of another version stays as it is."""
        if not sa.inspect(self._engine).has_table(schema_version.name):
            return
        with self._engine.connect() as connection:
            version = connection.execute(sa.select(sa.func.max(schema_version.c.version))).scalar()
        if refusal := refusal_of(version):
            raise LedgerError(refusal)

    def _lock(self, connection: sa.Connection, key: int, shared: bool = False) -> None:
        """Wait for a lock that ends with the transaction. SQLite has one writer at a time, and needs none."""
        if self._engine.dialect.name == "postgresql":
            kind = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
            connection.execute(sa.text(f"SELECT {kind}(:key)"), {"key": key})

    def _insert_into(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        return (postgresql if self._engine.dialect.name == "postgresql" else sqlite).insert(table)

    @cached_property
    def _each_id(self) -> str:
        return each_of_ids(self._engine.dialect.name == "postgresql")

    @cached_property
    def _settled(self) -> sa.Delete:
        return sa.delete(claims).where(claims.c.request_id.in_(sa.text(f"SELECT id FROM {self._each_id}")))

    @cached_property
    def _answers(self) -> sa.Select[Any]:
        """The answers whose ids are in the JSON array `ids`: one parameter, so that it is always the same statement."""
        return sa.select(*_answer_columns).where(calls.c.request_id.in_(sa.text(f"SELECT id FROM {self._each_id}")))


def open_ledger(home: Home) -> Ledger:
    """The ledger of a home: its file, or the database that many hosts share."""
    return Ledger(home.shared_ledger or home.ledger, lambda: forgotten_prompts(home))


def _logprobs(kept: str | None) -> tuple[float | None, ...] | None:
    return None if kept is None else tuple(json.loads(kept))


def _row(call: PaidCall) -> dict[str, Any]:
    text, escaped = stored(call.answer.text)
    row = {
        "request_id": call.request_id,
        "model_id": call.model_id,
        "stage": call.slot.stage,
        "prompt_id": call.slot.prompt_id,
        "text": text,
        "escaped": escaped,
        "finish_reason": call.answer.finish_reason,
        "logprobs": None if call.answer.logprobs is None else json.dumps(call.answer.logprobs),
        "prompt_tokens": call.answer.prompt_tokens,
        "completion_tokens": call.answer.completion_tokens,
        "seconds": call.answer.seconds,
    }
    return {**row, "checksum": checksum(tuple(row[name] for name in CHECKED))}


def _use_wal(connection: Any, _record: object) -> None:
    """Readers and one writer at a time go on together; a commit survives the death of the process."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


def _moments(tokens: Any) -> list[Any]:
    return [sa.func.avg(tokens), sa.func.avg(tokens * tokens * 1.0)]


def _mean_and_variance(mean: Any, mean_square: Any) -> tuple[float, float]:
    return float(mean), max(0.0, float(mean_square) - float(mean) ** 2)
