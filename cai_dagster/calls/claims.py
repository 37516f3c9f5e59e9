"""Claims: which run is paying for a call now, so that no other pays for it too.

A run claims a call before it asks the engine. Whoever finds a claim of another waits for the answer, or for the claim
to be given up. A claimant counts its beats up in the ledger; one whose count stands still for LEASE_SECONDS, by the
clock of who waits for it, has ended or is paused, and its claims are taken away. Where the ledger is a file, a claimant
holds a lease beside it too, so that its end is noticed at once. One that was only paused goes on and pays: its answer
is kept if it is the first. Nobody holds a claim while waiting for one, so that claims that cross do not wait for each
other.
"""

import json
import os
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from cai_dagster.calls.ledger_schema import claimants, claims
from cai_dagster.calls.ledger_sql import each_of_ids
from cai_dagster.calls.requests import Claimed
from cai_dagster.lake.leases import hold, is_held
from cai_dagster.lake.lost_connections import waits_for_the_server

BEAT_SECONDS = 2.0
LEASE_SECONDS = 20.0


def leases_beside(ledger: Path) -> Path:
    """Where the claimants of a ledger in a file hold their leases."""
    return ledger.with_name("claims")


class Claims:
    """The claims of one run of a stage. They end with `close`, or with the process."""

    def __init__(self, database: sa.Engine, leases: Path | None) -> None:
        self._database = database
        self._leases = leases
        self._claimant = uuid.uuid4().hex
        self._lease: int | None = None
        self._stop: threading.Event | None = None
        self._seen: dict[str, tuple[int, float]] = {}  # another claimant's beats, and when they were first seen
        each = each_of_ids(database.dialect.name == "postgresql")
        self._claim = sa.text(
            f"INSERT INTO claims (request_id, claimant) SELECT id, :claimant FROM {each} "
            "WHERE NOT EXISTS (SELECT 1 FROM calls WHERE request_id = id) ON CONFLICT DO NOTHING"
        )
        self._claimants = sa.text(
            "SELECT request_id, claimant, EXISTS (SELECT 1 FROM calls WHERE calls.request_id = claims.request_id) "
            f"FROM claims WHERE request_id IN (SELECT id FROM {each})"
        )
        self._release = sa.text(
            f"DELETE FROM claims WHERE claimant = :claimant AND request_id IN (SELECT id FROM {each})"
        )

    @waits_for_the_server
    def claim(self, request_ids: Iterable[str]) -> Claimed:
        """Claim those that are neither answered nor claimed; claims of runs that ended are taken over."""
        ids = set(request_ids)
        self._begin()
        claimed = self._try_to_claim(ids)
        if claimed.others and self._take_away(set(claimed.others.values())):
            claimed = self._try_to_claim(ids)
        return claimed

    @waits_for_the_server
    def release(self, request_ids: Iterable[str]) -> None:
        """Give up claims of calls that will not be answered by us."""
        with self._database.begin() as connection:
            parameters = {"claimant": self._claimant, "ids": json.dumps(sorted(request_ids))}
            connection.execute(self._release, parameters)

    @waits_for_the_server
    def close(self) -> None:
        """Give up all claims."""
        if self._stop is None:
            return
        self._stop.set()
        with self._database.begin() as connection:
            _remove(connection, {self._claimant})
        self._stop = None
        if self._leases is not None and self._lease is not None:
            (self._leases / self._claimant).unlink(missing_ok=True)
            os.close(self._lease)
            self._lease = None

    def _begin(self) -> None:
        """Show that this claimant is alive before it claims anything."""
        if self._stop is not None:
            return
        if self._leases is not None:
            self._leases.mkdir(exist_ok=True)
            begun = self._leases / f".{self._claimant}"  # found by its name once it is held
            self._lease = hold(begun)
            begun.rename(self._leases / self._claimant)
        _beat(self._database, self._claimant)
        self._stop = threading.Event()
        weakref.finalize(self, self._stop.set)
        arguments = (self._database, self._claimant, self._stop)
        threading.Thread(target=_keep_beating, args=arguments, name="claims", daemon=True).start()

    def _try_to_claim(self, ids: Set[str]) -> Claimed:
        parameters = {"claimant": self._claimant, "ids": json.dumps(sorted(ids))}
        with self._database.begin() as connection:
            connection.execute(self._claim, parameters)
            found: Any = connection.execute(self._claimants, parameters).tuples().all()
            answered = {request_id for request_id, _, is_answered in found if is_answered}
            if answered:  # between the two statements
                connection.execute(self._release, {**parameters, "ids": json.dumps(sorted(answered))})
        open_claims = {request_id: claimant for request_id, claimant, is_answered in found if not is_answered}
        ours = {request_id for request_id, claimant in open_claims.items() if claimant == self._claimant}
        return Claimed(ours, {one: claimant for one, claimant in open_claims.items() if one not in ours})

    def _take_away(self, others: Set[str]) -> bool:
        """Remove the claims of those of these claimants that have ended; whether there were any."""
        with self._database.connect() as connection:
            found: Any = connection.execute(sa.select(claimants).where(claimants.c.claimant.in_(others))).tuples()
            beats: dict[str, int] = dict(found.all())
        ended = {other for other in others if self._has_ended(other, beats.get(other))}
        if ended:
            with self._database.begin() as connection:
                _remove(connection, ended)
            for other in ended:
                self._seen.pop(other, None)
                if self._leases is not None:
                    (self._leases / other).unlink(missing_ok=True)
        return bool(ended)

    def _has_ended(self, other: str, beats: int | None) -> bool:
        if beats is None or (self._leases is not None and not is_held(self._leases / other)):
            return True
        now = time.monotonic()
        last, since = self._seen.get(other, (None, now))
        if last != beats:
            self._seen[other] = (beats, now)
            return False
        return now - since > LEASE_SECONDS


def _keep_beating(database: sa.Engine, claimant: str, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        try:
            _beat(database, claimant)
        except SQLAlchemyError:  # the stage itself meets what is wrong with the ledger, and says so
            continue


def _beat(database: sa.Engine, claimant: str) -> None:
    """Count up; one that was taken for dead is there again."""
    with database.begin() as connection:
        counted = connection.execute(
            sa.update(claimants).where(claimants.c.claimant == claimant).values(beats=claimants.c.beats + 1)
        )
        if not counted.rowcount:
            connection.execute(sa.insert(claimants).values(claimant=claimant, beats=0))


def _remove(connection: sa.Connection, ended: Set[str]) -> None:
    connection.execute(sa.delete(claims).where(claims.c.claimant.in_(ended)))
    connection.execute(sa.delete(claimants).where(claimants.c.claimant.in_(ended)))
