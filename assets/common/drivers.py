"""Driver processes: the rows of a stage split between processes that ask the servers; `driver` is one of them.

For servers that answer faster than one process can ask. The ledger and the lake are shared: a call that two of them
need is claimed by one, and what all have staged is committed together, by the run.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import IO, cast

from cai_dagster.calls.ledgered_model import Usage
from cai_dagster.calls.row_stream import Progress
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.lake.staging import StagedFiles, StagedRows
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from cai_dagster.plan.stages import Stage
from cai_dagster.processes import encoded, received

END_SECONDS = 60.0  # for a driver to commit what it has paid for
SHARE = "share.msgpack"


class DriverError(RuntimeError):
    """A driver process failed; the message has its reason."""


@dataclass(frozen=True)
class Share:
    """The rows that one driver works on: every `drivers`-th of the stage's, from `number`.

    `maker` and `arguments` are those of `plan.stages.remade`. `tables` are the snapshots that the stage reads: table,
    constitution version and snapshot id by the name in the stage's SELECT.
    """

    number: int
    drivers: int
    rows: int
    table: str
    constitution_version: str | None
    maker: str
    arguments: bytes
    tables: dict[str, tuple[str, str | None, int]]
    model: LanguageModelSettings
    weights: Weights
    folder: Path

    @property
    def name(self) -> str:
        """`driver 2 of 4`."""
        return f"driver {self.number + 1} of {self.drivers}"


@dataclass(frozen=True)
class DriverResult:
    """What one driver has staged, and what it cost."""

    staged: StagedFiles
    usage: Usage


@dataclass(frozen=True)
class DriverMessage:
    """What a driver says: exactly one of these."""

    log: str | None = None
    progress: Progress | None = None
    result: DriverResult | None = None
    failure: str | None = None


def shares_of(
    stage: Stage,
    tables: Mapping[str, TableSnapshot],
    staged: StagedRows,
    rows: int,
    settings: LanguageModelSettings,
    weights: Weights,
    drivers: int,
) -> list[Share]:
    """The stage's rows dealt out to so many drivers; together they ask each server for no more than one would."""
    snapshots = {name: (one.table, one.constitution_version, one.snapshot_id) for name, one in tables.items()}
    slots = max(1, settings.slots // drivers)
    return [
        Share(
            number=number,
            drivers=drivers,
            rows=len(range(number, rows, drivers)),
            table=staged.table.name,
            constitution_version=staged.constitution_version,
            maker=stage.maker,
            arguments=encoded(stage.arguments),
            tables=snapshots,
            model=settings.model_copy(update={"calls_in_flight": slots, "drivers": 1}),
            weights=weights,
            folder=staged.folder / f"driver-{uuid.uuid4().hex}",
        )
        for number in range(drivers)
    ]


def run_drivers(
    shares: Sequence[Share], staged: StagedRows, log: Callable[[str], None], report: Callable[[Progress], None]
) -> Usage:
    """Run a driver for each share, and add to `staged` what they have staged; what it cost.

    Raises DriverError where one fails; the others end then, and commit what they have paid for.
    """
    messages: queue.Queue[tuple[int, DriverMessage | None]] = queue.Queue()
    results: dict[int, DriverResult] = {}
    progress: dict[int, Progress] = {}
    fresh: set[int] = set()
    with contextlib.ExitStack() as running:
        drivers = [running.enter_context(_driver(share)) for share in shares]
        running.callback(_interrupt, drivers)  # all at once, before each is waited for
        for number, driver in enumerate(drivers):
            arguments = (number, cast("IO[bytes]", driver.stdout), messages)
            threading.Thread(target=_read_messages, args=arguments, daemon=True).start()
        while len(results) < len(shares):
            number, message = messages.get()
            share = shares[number]
            if message is None and number not in results:
                raise DriverError(f"{share.name} ended without a word; what it wrote last is in the step's own output")
            if message is None:
                continue
            if message.failure is not None:
                raise DriverError(f"{share.name}: {message.failure}")
            if message.log is not None:
                log(f"{share.name}: {message.log}")
            if message.result is not None:
                results[number] = message.result
            if message.progress is not None:
                progress[number] = message.progress
                fresh.add(number)
                if fresh | results.keys() >= set(range(len(shares))):
                    report(reduce(add, progress.values()))
                    fresh.clear()
    usages = [result.usage for result in results.values()]
    together = sum(usages, Usage())
    together.engine_seconds = max(usage.engine_seconds for usage in usages)  # they worked at the same time
    for share in shares:
        staged.inputs += share.rows
        staged.adopt(results[share.number].staged)
    return together


@contextlib.contextmanager
def _driver(share: Share) -> Generator[subprocess.Popen[bytes]]:
    """A driver at work; at the end it has ended."""
    share.folder.mkdir(parents=True)
    job = share.folder / SHARE
    job.write_bytes(encoded(share))
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "assets.common.driver", str(job)],
        stdin=subprocess.PIPE,  # its end tells the driver that this process has ended
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which passes it on
    )
    with process:
        try:
            yield process
        finally:
            _interrupt([process])
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _interrupt(drivers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have those that still work commit what they have paid for, and end."""
    for driver in drivers:
        if driver.poll() is None:
            driver.send_signal(signal.SIGTERM)


def _read_messages(number: int, output: IO[bytes], messages: "queue.Queue[tuple[int, DriverMessage | None]]") -> None:
    for message in received(output, DriverMessage):
        messages.put((number, message))
    messages.put((number, None))
