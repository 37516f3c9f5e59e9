"""Rows of chained calls with uneven lengths: each row's next call as soon as its last has ended, against a barrier.

The same calls with the same number of tokens both ways: lengths follow the slot, and the end of a turn is ignored. They
are exponential, as those of real answers nearly are: most are short, few are long.
"""

import asyncio
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.offline_engine import engine_settings, offline_weights
from cai_dagster.calls.requests import Answer, Request, Sampling, Slot
from cai_dagster.hashing import unit_interval
from cai_dagster.models.messages import Message, Messages
from resources.engines.vllm.calls import TokenAnswer, TokenCall
from resources.engines.vllm.engine import VllmEngine
from resources.engines.vllm.in_process import InProcess

REPEATS = 3
SLOTS = 24
STEPS = 4
SHORTEST, MEAN, LONGEST = 4, 24, 128  # tokens of an answer


class FixedLengthEngine(VllmEngine):
    """Answers of a length that the slot decides."""

    async def complete(self, request: Request) -> Answer:
        """As long as the slot says."""
        slot = request.slot
        place = unit_interval(slot.stage, slot.prompt_id, slot.round)
        length = min(LONGEST, SHORTEST + round(-math.log(place) * (MEAN - SHORTEST)))
        return await super().complete(replace(request, sampling=replace(request.sampling, max_tokens=length)))


class _WithoutEnd(InProcess):
    """Draws as many tokens as it is asked for."""

    async def ask(self, call: TokenCall) -> TokenAnswer:
        """The answer, never ended by the model."""
        return await super().ask(replace(call, ignore_eos=True))


def measure() -> dict[str, Any]:
    """Wall time with a barrier over wall time without, at one row and at four rows a slot: medians of REPEATS."""
    engine = FixedLengthEngine(
        offline_weights(),
        engine_settings(SLOTS),
        start=lambda weights, settings, log, _: _WithoutEnd(weights, settings, log),
    )
    try:
        asyncio.run(_streamed(engine, _rows("warm-up", 2)))
        one = [_compare(engine, SLOTS) for _ in range(REPEATS)]
        four = [_compare(engine, 4 * SLOTS) for _ in range(REPEATS)]
    finally:
        engine.close()
    return {
        "results": {
            "streaming_speedup": statistics.median(repeat["ratio"] for repeat in one),
            "streaming_speedup_4_rows_a_slot": statistics.median(repeat["ratio"] for repeat in four),
        },
        "details": {"slots": SLOTS, "steps": STEPS, "one_row_a_slot": one, "four_rows_a_slot": four},
    }


def _compare(engine: VllmEngine, rows: int) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for name, run in (("barrier_s", _with_barrier), ("streamed_s", _streamed)):
        started = time.perf_counter()
        asyncio.run(run(engine, _rows("row", rows)))
        seconds[name] = time.perf_counter() - started
    return {**seconds, "ratio": seconds["barrier_s"] / seconds["streamed_s"]}


def _rows(name: str, count: int) -> list[tuple[str, Messages]]:
    stories = [(Message("user", f"Tell me a story of {number} friends."),) for number in range(count)]
    return [(f"{name} {number}", story) for number, story in enumerate(stories)]


async def _step(engine: VllmEngine, row: tuple[str, Messages], number: int) -> tuple[str, Messages]:
    """The next call of a row; its answer becomes part of the one after."""
    row_id, messages = row
    answer = await engine.complete(Request(messages, Slot("row_streaming", row_id, number), Sampling()))
    return row_id, (*messages, Message("assistant", answer.text), Message("user", "And then?"))


async def _streamed(engine: VllmEngine, rows: Sequence[tuple[str, Messages]]) -> None:
    async def chain(row: tuple[str, Messages]) -> None:
        for number in range(STEPS):
            row = await _step(engine, row, number)

    await _bounded([lambda row=row: chain(row) for row in rows])


async def _with_barrier(engine: VllmEngine, rows: Sequence[tuple[str, Messages]]) -> None:
    for number in range(STEPS):
        rows = await _bounded([lambda row=row: _step(engine, row, number) for row in rows])  # noqa: B023


async def _bounded(work: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """All results in order, as many at a time as there are slots."""
    free = asyncio.Semaphore(SLOTS)

    async def one(begin: Callable[[], Awaitable[Any]]) -> Any:
        async with free:
            return await begin()

    return await asyncio.gather(*(one(begin) for begin in work))
