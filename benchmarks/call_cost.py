"""CPU time of one call on our side: template, token ids, hashing, ledger and validation; vLLM is scripted.

The scripted vLLM is in a process of its own, as the real one is on a GPU, and answers at once; only the time of the
run's process counts. Prompts have about 1,000 tokens, of texts that no two rows share.
"""

import hashlib
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.offline_engine import engine_settings, offline_weights
from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.row_stream import run_rows
from cai_dagster.constitution.constitution import load_constitution
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from cai_dagster.plan.stages import Stage, initial_responses_stage, judgements_stage, revision_rounds_stage
from cai_dagster.project import PROJECT
from cai_dagster.settings import active_settings
from resources.engines.protocol import StartedEngine
from resources.engines.vllm.calls import TokenAnswer, TokenCall
from resources.engines.vllm.engine import VllmEngine
from resources.engines.vllm.host import main
from resources.engines.vllm.own_process import OwnProcess

SLOTS = 256
ROWS = 2_000
PAIRS = 500
VERSION = "v1"
TEXT = "A completion of a few lines,\nas many as a short answer of a chat model has.\n" * 3


class ScriptedVllm:
    """Answers at once."""

    errored = False

    def __init__(self, weights: Weights, settings: LanguageModelSettings) -> None:
        """Nothing is loaded."""

    async def ask(self, number: int, call: TokenCall) -> TokenAnswer:
        """A text, or a log probability for each label."""
        logprobs = tuple(-0.5 - (number + label) % 7 for label in call.labels)
        return TokenAnswer(f"{number} {TEXT}".encode(), "stop", 60, 0, logprobs)

    def shutdown(self) -> None:
        """Nothing is held."""


def measure() -> dict[str, Any]:
    """CPU milliseconds of the run's process a call, and calls a second of one core."""
    weights, settings = offline_weights(), engine_settings(SLOTS)
    results: dict[str, float] = {}
    details: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        lake = Lake(home)
        constitution = load_constitution(PROJECT / "constitutions" / f"{VERSION}.yaml")
        chosen = active_settings()
        write(lake, "prompts", None, prompts(ROWS, 1_000))
        stages = {
            "completion": initial_responses_stage(chosen.initial_responses),
            "revision": revision_rounds_stage(constitution, chosen.revision_rounds),
        }
        for name, stage in stages.items():
            details[name] = run(home, lake, stage, _engine(weights, settings))
        write(lake, "prompts", None, prompts(PAIRS, 150))
        write(lake, "response_pairs", VERSION, _pairs(PAIRS, 350))
        stage = judgements_stage(constitution, chosen.judgements)
        details["judgement"] = run(home, lake, stage, _engine(weights, settings))
    for name, measured in details.items():
        results[f"{name}_cpu_ms"] = measured["cpu_ms"]
    return {"results": results, "details": {"slots": SLOTS, **details}}


def _engine(weights: Weights, settings: LanguageModelSettings) -> VllmEngine:
    return VllmEngine(weights, settings, start=lambda *arguments: OwnProcess(*arguments, host=__name__))


def run(home: Home, lake: Lake, stage: Stage, engine: StartedEngine) -> dict[str, float]:
    """From the first row of a stage to its commit, the engine being there; it is closed at the end."""
    ledger = Ledger(home.ledger)
    model = LedgeredModel("scripted", lambda: engine, ledger)
    names = [name for name in ("prompts", "initial_responses", "response_pairs") if f" {name} " in f"{stage.rows} "]
    tables = {name: lake.snapshot(name, None if name != "response_pairs" else VERSION) for name in names}
    started, cpu = time.perf_counter(), time.process_time()
    staged = lake.stage(stage.table, None if stage.table == "initial_responses" else VERSION)
    total = lake.count(stage.rows, **tables)
    rows = lake.stream(stage.rows, **tables)
    run_rows(rows, total, stage.recipe, model, staged, stage.row_id, 2 * SLOTS, lambda _: None)
    lake.commit(staged, Account("benchmark", lake.data_version(staged)))
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    engine.close()
    ledger.close()
    usage = model.usage
    assert not usage.hits
    assert not staged.rejected_count
    return {
        "calls": usage.misses,
        "prompt_tokens_a_call": usage.prompt_tokens / usage.misses,
        "cpu_ms": 1e3 * cpu / usage.misses,
        "calls_a_second": usage.misses / seconds,
    }


def words() -> Iterator[str]:
    """The words of this project's documentation in an endless pseudo-random order."""
    text = " ".join(file.read_text() for file in sorted((PROJECT / "docs").glob("*.md")))
    words = sorted(set(re.findall(r"[A-Za-z]{2,}", text)))
    for number in itertools.count():
        digest = hashlib.sha256(str(number).encode()).digest()
        yield from (words[int.from_bytes(digest[at : at + 4]) % len(words)] for at in range(0, 32, 4))


_WORDS = words()


def _text(tokens: int) -> str:
    """Sentences of about as many tokens, a line each."""
    words = list(itertools.islice(_WORDS, round(tokens / 1.45)))
    return "\n".join(" ".join(words[at : at + 18]).capitalize() + "." for at in range(0, len(words), 18))


def prompts(count: int, tokens: int) -> pl.DataFrame:
    """The table prompts: so many, of so many tokens each."""
    rows = [
        {
            "prompt_id": f"{number:032x}",
            "messages": [{"role": "user", "content": _text(tokens)}],
            "source": "benchmark:1",
            "sources": ["benchmark:1"],
            "category": None,
            "split": "sft" if count == ROWS else "preference",
        }
        for number in range(count)
    ]
    return pl.DataFrame(rows, schema_overrides={"category": pl.String})


def _pairs(count: int, tokens: int) -> pl.DataFrame:
    rows = [
        {
            "pair_id": f"{number:032x}",
            "prompt_id": f"{number:032x}",
            "source": "imported:benchmark:1",
            "completion_0": _text(tokens),
            "completion_1": _text(tokens),
            "finish_reason_0": "stop",
            "finish_reason_1": "stop",
            "request_id_0": f"{number:064x}",
            "request_id_1": f"{number:064x}",
        }
        for number in range(count)
    ]
    return pl.DataFrame(rows)


def write(lake: Lake, table: str, version: str | None, frame: pl.DataFrame) -> None:
    """Commit a table; columns that the frame lacks are null."""
    staged = lake.stage(table, version)
    columns = staged.table.columns
    missing = [column.name for column in columns if column.name not in frame.columns]
    for name in missing:
        frame = frame.with_columns(pl.lit(version if name == "constitution_version" else None, pl.String).alias(name))
    staged.add_frame(frame.select([column.name for column in columns]))
    staged.close()
    assert not staged.rejected_count, staged.reasons
    lake.commit(staged, Account("benchmark", lake.data_version(staged)))


if __name__ == "__main__":
    main(int(sys.argv[1]), ScriptedVllm)
