"""What a row costs beside its model: ledger, validation and commit, with a scripted model that answers at once."""

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.ledgered_model import LedgeredModel, Usage
from cai_dagster.calls.requests import Answer, Request
from cai_dagster.calls.row_stream import run_rows
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account
from cai_dagster.plan.stages import initial_responses_stage
from cai_dagster.settings import active_settings

SIZES = (1_000, 10_000, 100_000, 1_000_000)
SMALL_REPEATS = 9  # of the sizes up to 10,000: their median
AGAIN = 100_000
STAGE = "initial_responses"
ROWS_IN_FLIGHT = 256
TEXT = "A completion of about two hundred characters, as many as a short answer of a chat model has. " * 2


class AtOnce:
    """A scripted engine without latency."""

    async def complete(self, request: Request) -> Answer:
        """The same text after each prompt's id."""
        return Answer(f"{request.slot.prompt_id} {TEXT}", "stop", 100, 50, 0.0)

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:  # noqa: ARG002
        """Both as probable."""
        return Answer("", "stop", 100, 1, 0.0, (-0.7,) * len(choices))


def measure() -> dict[str, Any]:
    """Cost of a row at each size, memory at the last, and calls a second of a run that finds every call."""
    seconds: dict[int, float] = {}
    hits = 0.0
    disk: dict[str, float] = {}
    for size in SIZES:
        repeats = SMALL_REPEATS if size <= 10_000 else 1
        runs: list[float] = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                home = Home(Path(folder))
                _write_prompts(Lake(home), size)
                elapsed, usage = _run(home)
                assert usage.misses == size
                runs.append(elapsed)
                disk = {"ledger_bytes_a_call": _bytes(folder, "ledger.*") / size}
                disk["lake_bytes_a_row"] = _bytes(folder, f"tables/main/{STAGE}/*") / size
                if size == AGAIN:
                    elapsed, usage = _run(home)
                    assert usage.hits == size
                    hits = size / elapsed
        seconds[size] = statistics.median(runs)
        print(size, seconds[size], file=sys.stderr, flush=True)
    cost = {size: seconds[size] / size for size in SIZES}
    return {
        "results": {
            "calls_per_second": SIZES[-1] / seconds[SIZES[-1]],
            "cost_growth_1k_to_1m": cost[SIZES[-1]] / cost[SIZES[0]],
            "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            "ledger_hits_per_second": hits,
        },
        "details": {"microseconds_a_row": {str(size): 1e6 * cost[size] for size in SIZES}, **disk},
    }


def _bytes(folder: str, pattern: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).glob(pattern))


def _run(home: Home) -> tuple[float, Usage]:
    """Wall time of the stage initial_responses, from its first row to its commit."""
    lake, ledger = Lake(home), Ledger(home.ledger)
    prompts = lake.snapshot("prompts")
    stage = initial_responses_stage(active_settings().initial_responses)
    model = LedgeredModel("scripted", AtOnce, ledger)
    started = time.perf_counter()
    staged = lake.stage(stage.table)
    total = lake.count(stage.rows, prompts=prompts)
    rows = lake.stream(stage.rows, prompts=prompts)
    run_rows(rows, total, stage.recipe, model, staged, stage.row_id, ROWS_IN_FLIGHT, lambda _: None)
    lake.commit(staged, Account("benchmark", lake.data_version(staged)))
    elapsed = time.perf_counter() - started
    ledger.close()
    return elapsed, model.usage


def _write_prompts(lake: Lake, count: int) -> None:
    number = pl.int_range(count)
    content = pl.concat_str(pl.lit("Question number "), number.cast(pl.String), pl.lit(": what should one know of it?"))
    message = pl.struct(pl.lit("user").alias("role"), content.alias("content"))
    frame = pl.select(
        number.cast(pl.String).str.pad_start(32, "0").alias("prompt_id"),
        pl.concat_list(message).alias("messages"),
        pl.lit("benchmark:1").alias("source"),
        pl.concat_list(pl.lit("benchmark:1")).alias("sources"),
        pl.lit(None, pl.String).alias("category"),
        pl.lit("sft").alias("split"),
    )
    staged = lake.stage("prompts")
    staged.add_frame(frame)
    staged.close()
    lake.commit(staged, Account("benchmark", lake.data_version(staged)))
