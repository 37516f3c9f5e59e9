"""The assets initial_responses, revision_rounds and judgements against bare vLLM on the same requests, on one machine.

Bare vLLM is its `AsyncLLM`, which `vllm serve` has too, given all requests at once, free of the chain that makes a
revision wait for its critique. The model has the shape of Llama 3 8B and random weights, made on the spot.
Run it on a GPU (`python -m benchmarks gpu_throughput`); CAI_BENCH_SHAPE=tiny has a model that a CPU can run, to try it.
"""

import asyncio
import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import polars as pl

from benchmarks.call_cost import VERSION, words, write
from benchmarks.offline_engine import engine_settings, offline_weights, recording
from cai_dagster.definitions import build_definitions
from cai_dagster.home import Home
from cai_dagster.inputs.settings import Split
from cai_dagster.lake.lake import Lake
from cai_dagster.models.library_environment import prepare_vllm
from cai_dagster.models.settings import EngineKind, LanguageModelSettings
from cai_dagster.models.weights import Weights, weights_of
from resources.accelerator import ACCELERATOR
from resources.engines.vllm.calls import TokenCall
from resources.engines.vllm.host import AsyncVllm
from resources.engines.vllm.own_process import OwnProcess
from resources.language_models import LanguageModelResource, LedgerResource

MEASURED = ("initial_responses", "revision_rounds", "judgements")
ASSETS = ("constitution", "prompts", "initial_responses", "revision_rounds", "judgements")
SHAPES = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
}
SLOTS = {"8b": (256, 1024), "tiny": (16,)}
ROWS_A_SLOT = 2
TOKENS = {"8b": 128, "tiny": 16}
PROMPT_WORDS = 150
Recorded = dict[str, list[tuple[TokenCall, int]]]


def measure() -> dict[str, Any]:
    """Wall time of each asset over that of `generate`, at each number of slots."""
    shape = os.environ.get("CAI_BENCH_SHAPE", "8b")
    results: dict[str, float] = {}
    details: dict[str, Any] = {"shape": shape}
    with tempfile.TemporaryDirectory() as folder:
        weights = _random_weights(Path(folder) / shape, shape)
        for slots in SLOTS[shape]:
            settings = engine_settings(slots, engine=EngineKind.own_process, model=str(weights.folder))
            found = _compare(weights, settings, TOKENS[shape], Path(folder) / f"home-{slots}")
            details[str(slots)] = found
            results |= {f"{asset}_vs_bare_{slots}": found[asset]["ratio"] for asset in MEASURED}
    return {"results": results, "details": details}


def _random_weights(folder: Path, shape: str) -> Weights:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(offline_weights().folder)
    sizes: dict[str, Any] = SHAPES[shape]
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=4096, **sizes)
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return weights_of(f"random-{shape}", folder, Home.from_environment())


def _compare(weights: Weights, settings: LanguageModelSettings, tokens: int, home: Path) -> dict[str, Any]:
    recorded: Recorded = {asset: [] for asset in MEASURED}
    with _utilization() as used:
        assets = _asset_seconds(settings, tokens, home, recorded)
    ACCELERATOR.release()
    asked, measured = home / "recorded.msgpack", home / "bare.json"
    asked.write_bytes(msgspec.msgpack.encode((str(weights.folder), settings.model_dump_json(), recorded)))
    command = [sys.executable, "-m", "benchmarks.gpu_throughput", str(asked), str(measured)]
    subprocess.run(command, check=True)  # noqa: S603
    bare = json.loads(measured.read_text())
    found: dict[str, Any] = {"gpu_utilization": used}
    for asset in MEASURED:
        prompt = sum(len(call.token_ids) for call, _ in recorded[asset])
        completion = sum(count for _, count in recorded[asset])
        seconds = assets[asset]["seconds"]
        found[asset] = {
            **assets[asset],
            "bare_seconds": bare[asset],
            "ratio": seconds / bare[asset],
            "calls": len(recorded[asset]),
            "prompt_tokens_per_second": prompt / seconds,
            "completion_tokens_per_second": completion / seconds,
            "our_cpu_share": assets[asset]["cpu_seconds"] / seconds,
        }
    return found


def _asset_seconds(
    settings: LanguageModelSettings, tokens: int, home: Path, recorded: Recorded
) -> dict[str, dict[str, float]]:
    """Seconds of each step, from its start to its success, and of our CPU in it; the engine is loaded by then."""
    os.environ["CAI_HOME"] = str(home)
    home.mkdir()
    prompts = _write_prompts(home, ROWS_A_SLOT * settings.slots)
    splits = [split.value for split in Split]
    config = {
        "prompts": {"sources": [str(prompts)], "preference_share": 0.98, "sft_share": 0.01},
        "initial_responses": {"max_tokens": tokens},
        "revision_rounds": {
            "rounds": 1,
            "splits": splits,
            "critique_max_tokens": tokens,
            "revision_max_tokens": tokens,
        },
    }
    ledger = LedgerResource()
    model = LanguageModelResource(ledger=ledger, **settings.model_dump())
    graph = build_definitions({"ledger": ledger, "policy": model, "feedback_model": model})
    found: dict[str, dict[str, float]] = {}
    with dg.DagsterInstance.ephemeral() as instance:
        for asset in ASSETS:
            if asset == "judgements":
                _write_pairs(Home.from_environment())
            if asset in MEASURED:  # a call of no row, so that the start of the engine is in no step
                model.start_engine(model.served_weights(), lambda _: None)
            key = [dg.AssetKey(asset)]
            job = graph.resolve_implicit_job_def_def_for_assets(key)
            assert job is not None
            run_config = {"ops": {asset: {"config": config[asset]}}} if asset in config else {}
            with recording(OwnProcess, recorded.get(asset, []), _without_end), _kept():
                cpu = resource.getrusage(resource.RUSAGE_SELF)
                result = job.execute_in_process(run_config, instance, VERSION, asset_selection=key)
                after = resource.getrusage(resource.RUSAGE_SELF)
            (step,) = instance.get_run_step_stats(result.run_id, [asset])
            assert step.start_time is not None
            assert step.end_time is not None
            spent = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
            found[asset] = {"seconds": step.end_time - step.start_time, "cpu_seconds": spent}
    return found


@contextlib.contextmanager
def _kept() -> Generator[None]:
    """Keep the engine when a run ends: the next asset goes on with it."""
    release = ACCELERATOR.release
    ACCELERATOR.release = lambda: None
    try:
        yield
    finally:
        ACCELERATOR.release = release


def _without_end(call: TokenCall) -> TokenCall:
    """Random weights never end a turn by themselves; both ways draw as many tokens as are asked for."""
    return replace(call, ignore_eos=not call.labels)


def _bare_seconds(weights: Weights, settings: LanguageModelSettings, recorded: Recorded) -> dict[str, float]:
    """Seconds of vLLM's `AsyncLLM` over all requests of each asset at once, in an engine of the same settings."""
    prepare_vllm(True, settings.cpu_cache_gib)
    found: dict[str, float] = {}

    async def ask_all() -> None:
        vllm = AsyncVllm(weights, settings)
        numbers = itertools.count()
        for asset, calls in recorded.items():
            drawn = [replace(_without_end(call), max_tokens=count) for call, count in calls]
            started = time.perf_counter()
            await asyncio.gather(*(vllm.ask(next(numbers), call) for call in drawn))
            found[asset] = time.perf_counter() - started
        vllm.shutdown()

    asyncio.run(ask_all())
    return found


@contextlib.contextmanager
def _utilization() -> Generator[list[float]]:
    """Utilization of the card in percent, once a second; empty without one."""
    found: list[float] = []
    ended = threading.Event()

    def look() -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not ended.wait(1.0):
            try:
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
            except (OSError, subprocess.CalledProcessError):
                return
            found.append(float(said.split()[0]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _write_pairs(home: Home) -> None:
    """First responses against their revisions; the asset response_pairs wants a fine-tuned model."""
    lake = Lake(home)
    first, last = lake.snapshot("initial_responses").frame(), lake.snapshot("revision_rounds", VERSION).frame()
    both = first.join(last, on=("prompt_id", "sample"), suffix="_last")
    frame = both.select(
        pl.col("request_id").str.head(32).alias("pair_id"),
        "prompt_id",
        pl.lit("revisions").alias("source"),
        pl.col("completion").alias("completion_0"),
        pl.col("revision").alias("completion_1"),
        pl.col("finish_reason").alias("finish_reason_0"),
        pl.lit("length").alias("finish_reason_1"),
        pl.col("request_id").alias("request_id_0"),
        pl.col("revision_request_id").alias("request_id_1"),
    )
    write(lake, "response_pairs", VERSION, frame)


def _write_prompts(folder: Path, count: int) -> Path:
    file = folder / "prompts.jsonl"
    source = words()
    with file.open("w") as lines:
        for _ in range(count):
            text = " ".join(itertools.islice(source, PROMPT_WORDS))
            lines.write(json.dumps({"prompt": f"{text}?"}) + "\n")
    return file


def main(asked: Path, measured: Path) -> None:
    """Measure bare vLLM on recorded requests."""
    kind = tuple[str, str, Recorded]
    folder, settings, recorded = msgspec.msgpack.decode(asked.read_bytes(), type=kind)
    weights = weights_of(Path(folder).name, Path(folder), Home.from_environment())
    seconds = _bare_seconds(weights, LanguageModelSettings.model_validate_json(settings), recorded)
    measured.write_text(json.dumps(seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
