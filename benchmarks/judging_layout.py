"""Judging several principles in both orders: pair first, as `judging` writes its prompts, against principle first."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.offline_engine import engine_settings, offline_weights
from cai_dagster.calls.requests import Request, Slot
from cai_dagster.constitution.constitution import Principle, load_constitution
from cai_dagster.inputs.pairs import Order, Pair
from cai_dagster.judging.judgement import STAGE
from cai_dagster.judging.one_principle import judge_messages
from cai_dagster.judging.questions import LABELS, PREFILL
from cai_dagster.models.messages import Message, Messages
from cai_dagster.project import PROJECT
from resources.engines.vllm.engine import VllmEngine

PAIRS = 3
PRINCIPLES = 8
REPEATS = 2
ORDERS: tuple[Order, ...] = ("01", "10")
Layout = Callable[[Pair, Principle, Order], Messages]


def principle_first(pair: Pair, principle: Principle, order: Order) -> Messages:
    """The same words, with the question before what it is about."""
    (message,) = judge_messages(pair, principle, order)
    question, answer = message.content.rsplit("\n\n", 1)
    return (Message("user", f"{answer}\n\n{question}"),)


def measure() -> dict[str, Any]:
    """Median over repeats, each on pairs of its own, of judgements a second in one layout over the other."""
    principles = load_constitution(PROJECT / "constitutions" / "v1.yaml").principles[:PRINCIPLES]
    engine = VllmEngine(offline_weights(), engine_settings(32))
    try:
        _seconds(engine, judge_messages, [_pair(10_000)], principles)
        repeats: list[dict[str, float]] = []
        for repeat in range(REPEATS):
            pairs = [_pair(PAIRS * repeat + number) for number in range(PAIRS)]
            ours = _seconds(engine, judge_messages, pairs, principles)
            other = _seconds(engine, principle_first, pairs, principles)
            repeats.append({"pair_first_s": ours, "principle_first_s": other, "ratio": other / ours})
    finally:
        engine.close()
    ratio = statistics.median(one["ratio"] for one in repeats)
    judged = PAIRS * PRINCIPLES * len(ORDERS)
    return {"results": {"judging_speedup": ratio}, "details": {"judgements": judged, "repeats": repeats}}


def _pair(number: int) -> Pair:
    """Two completions of about 170 tokens each, on a prompt of their own."""
    prompt = (Message("user", f"Question {number}: how should one keep a garden in year {number} of a drought?"),)
    first = " ".join(f"In week {week + number} water the beds {week} times at dawn." for week in range(12))
    second = " ".join(f"On day {day * number} dig {day} holes and wait for rain." for day in range(13))
    return Pair(f"{number:032x}", f"{number:032x}", prompt, first, second)


def _seconds(engine: VllmEngine, layout: Layout, pairs: Sequence[Pair], principles: Sequence[Principle]) -> float:
    """Wall time of all judgements; the pairs at the same time, each pair's principles one after the other."""

    async def judge_all(pair: Pair) -> None:
        for order in ORDERS:
            for principle in principles:
                messages = layout(pair, principle, order)
                await engine.choose(Request(messages, Slot(STAGE, pair.prompt_id), prefill=PREFILL), LABELS)

    async def run() -> None:
        await asyncio.gather(*(judge_all(pair) for pair in pairs))

    started = time.perf_counter()
    asyncio.run(run())
    return time.perf_counter() - started
