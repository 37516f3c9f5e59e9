"""How rows run: many at once, bounded, each through its own recipe, each result written as soon as it is there.

The one mechanism behind every asset that calls a model. There is no barrier between the steps of different rows, and
memory does not grow with their number. It knows no recipe, no engine and no Dagster.
"""

import asyncio
import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.requests import ChoiceLogprobs, Completion, LanguageModel, Request
from cai_dagster.calls.token_counts import TokenCounts
from cai_dagster.errors import HOW_TO_GO_ON, RowError
from cai_dagster.lake.staging import StagedRows

REPORT_SECONDS = 10.0
LATELY_ROWS = 50

Row = Mapping[str, Any]
Recipe = Callable[[LanguageModel, Row], Awaitable[Sequence[Row]]]
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    `calls` are those answered, `paid` those of them that the ledger did not have; `tokens` and `paid_seconds`, the wall
    time since the first of them, are of these. `paid_of_done` are those of rows that are done, `paid_lately` how many
    the last rows needed, a row. `paid_by_others` are the calls whose answers another run is paying for at this moment.
    """

    done: int
    total: int
    rejected: int
    calls: int
    paid: int
    paid_of_done: int
    paid_lately: float
    tokens: TokenCounts
    paid_seconds: float
    paid_by_others: int = 0

    def __add__(self, other: "Progress") -> "Progress":
        """Of two processes that work on the same stage."""
        done = self.done + other.done
        lately = (self.paid_lately * self.done + other.paid_lately * other.done) / done if done else 0.0
        return Progress(
            done=done,
            total=self.total + other.total,
            rejected=self.rejected + other.rejected,
            calls=self.calls + other.calls,
            paid=self.paid + other.paid,
            paid_of_done=self.paid_of_done + other.paid_of_done,
            paid_lately=lately,
            tokens=self.tokens + other.tokens,
            paid_seconds=max(self.paid_seconds, other.paid_seconds),
            paid_by_others=self.paid_by_others + other.paid_by_others,
        )

    @property
    def seconds_left(self) -> float | None:
        """At the rate of the calls paid for, if the rows left need as many as the last ones; None before any is known.

        What the ledger has takes no time and says nothing of what is to come. Many rows are in work at once and end
        together: the calls say how far they are, the rows do not.
        """
        if not (self.done and self.paid and self.paid_lately):
            return None
        expected = self.paid_of_done + self.paid_lately * (self.total - self.done)
        return self.paid_seconds / self.paid * max(0.0, expected - self.paid)

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left:,.0f} s left"
        others = f", {self.paid_by_others:,} calls wait for another run's answer" if self.paid_by_others else ""
        return (
            f"{self.done:,} of {self.total:,} rows, {self.rejected:,} rejected, {self.calls:,} calls"
            f"{f' ({self.paid:,} paid)' if self.paid < self.calls else ''}, "
            f"{self.tokens.speed(self.paid_seconds)}{left}{others}"
        )


class _CountingModel:
    """A model that counts the answers to one row that were paid for."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.model_id = model.model_id
        self.tells_apart = model.tells_apart
        self.paid = 0

    async def complete(self, request: Request) -> Completion:
        completion = await self._model.complete(request)
        self.paid += completion.paid
        return completion

    async def choose(self, request: Request, choices: tuple[str, ...]) -> ChoiceLogprobs:
        chosen = await self._model.choose(request, choices)
        self.paid += chosen.paid
        return chosen


def run_rows(
    rows: Iterable[Row],
    total: int,
    recipe: Recipe,
    model: LedgeredModel,
    staged: StagedRows,
    row_id: Callable[[Row], str],
    rows_in_flight: int,
    report: Callable[[Progress], None],
) -> None:
    """Run `recipe` for every row, `rows_in_flight` at a time, and stage what it returns.

    A row whose recipe raises RowError is set aside whole; any other exception stops the stage, and so does an
    interrupt (Ctrl-C, or the end of a run in the UI). Calls already paid for are in the ledger in every case.
    """
    received: list[int] = []
    staged.inputs += total
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run_rows(rows, total, recipe, model, staged, row_id, rows_in_flight, report, received))
    if received:
        try:
            signal.raise_signal(received[0])  # now for whoever was in charge before: Python, or Dagster
        except BaseException as error:
            error.add_note(HOW_TO_GO_ON)
            raise
    staged.close()


async def _run_rows(
    rows: Iterable[Row],
    total: int,
    recipe: Recipe,
    model: LedgeredModel,
    staged: StagedRows,
    row_id: Callable[[Row], str],
    rows_in_flight: int,
    report: Callable[[Progress], None],
    received: list[int],
) -> None:
    waiting = iter(rows)  # shared: each row goes to the first worker that is free
    done = paid_of_done = 0
    lately: deque[int] = deque(maxlen=max(LATELY_ROWS, 2 * rows_in_flight))  # calls paid for, of the last rows

    async def work() -> None:
        nonlocal done, paid_of_done
        for row in waiting:
            counting = _CountingModel(model)
            try:
                results = await recipe(counting, row)
            except RowError as error:
                staged.reject(row_id(row), str(error), row)
            else:
                staged.add(results)
            done += 1
            paid_of_done += counting.paid
            lately.append(counting.paid)

    async def tell() -> None:
        first_paid: float | None = None
        last_report = time.monotonic()
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            usage, now = model.usage, time.monotonic()
            if first_paid is None and usage.misses:
                first_paid = last_report  # some time in the interval that ends now
            last_report = now
            report(
                Progress(
                    done=done,
                    total=total,
                    rejected=staged.rejected_count,
                    calls=usage.hits + usage.misses,
                    paid=usage.misses,
                    paid_of_done=paid_of_done,
                    paid_lately=sum(lately) / len(lately) if lately else 0.0,
                    tokens=usage.tokens,
                    paid_seconds=0.0 if first_paid is None else now - first_paid,
                    paid_by_others=model.paid_by_others,
                )
            )

    telling = asyncio.create_task(tell())
    workers = [asyncio.create_task(work()) for _ in range(rows_in_flight)]
    with _interrupts_cancel(asyncio.current_task(), received):
        try:
            await asyncio.gather(*workers)
        finally:
            for task in (telling, *workers):
                task.cancel()
            await asyncio.gather(telling, *workers, return_exceptions=True)
            model.commit()


@contextlib.contextmanager
def _interrupts_cancel(task: "asyncio.Task[None] | None", received: list[int]) -> Generator[None]:
    """Let an interrupt cancel the task, between two steps of the event loop, and note it in `received`.

    The handlers of Python and Dagster raise, wherever the interrupt hits: in the middle of a commit to the ledger, or
    in a callback of the event loop, where the exception would be logged and forgotten. A second interrupt goes to
    them at once. Only the main thread is ever interrupted.
    """
    if task is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = task.get_loop()
    before = {number: handler for number in INTERRUPTS if callable(handler := signal.getsignal(number))}

    def cancel(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            before[signal.Signals(number)](number, frame)
        loop.call_soon_threadsafe(task.cancel)

    for number in before:
        signal.signal(number, cancel)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
