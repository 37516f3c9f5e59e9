"""The asset revision_rounds, from its first row to its commit, against the same requests through bare `LLM.generate`.

The requests of the asset are recorded: token ids, sampling parameters, and how many tokens came back. `generate` is
given all of them at once, free of the chain that makes a revision wait for its critique, and as many tokens are drawn.
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.offline_engine import engine_settings, offline_weights, recording
from cai_dagster.definitions import build_definitions
from cai_dagster.inputs.settings import Split
from cai_dagster.models.library_environment import prepare_vllm
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from cai_dagster.project import PROJECT
from resources.engines.vllm.arguments import engine_arguments
from resources.engines.vllm.calls import TokenCall
from resources.engines.vllm.in_process import InProcess
from resources.language_models import LanguageModelResource, LedgerResource

SLOTS = 8
REPEATS = 3  # of three minutes on two cores
ASSETS = ("constitution", "prompts", "initial_responses", "revision_rounds")
VARIANTS = ("", " Answer in one sentence.", " Give an example.", " Explain why.")  # rows for each bundled prompt
Recorded = list[tuple[TokenCall, int]]


def measure() -> dict[str, Any]:
    """Wall time of the asset over that of `generate`: the median of REPEATS, each with another seed."""
    weights, settings = offline_weights(), engine_settings(SLOTS)
    repeats = [_compare(weights, settings, seed) for seed in range(REPEATS)]
    ratio = statistics.median(one["asset_s"] / one["generate_s"] for one in repeats)
    return {"results": {"overhead_vs_generate": ratio}, "details": {"slots": SLOTS, "repeats": repeats}}


def _compare(weights: Weights, settings: LanguageModelSettings, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        asset, recorded = _asset_seconds(weights, settings, seed, Path(folder))
    spawn = multiprocessing.get_context("spawn")  # vLLM binds the threads of its process to cores
    with ProcessPoolExecutor(1, mp_context=spawn) as alone:
        generate = alone.submit(_generate_seconds, weights, settings, recorded).result()
    tokens = sum(tokens for _, tokens in recorded)
    return {"asset_s": asset, "generate_s": generate, "calls": len(recorded), "completion_tokens": tokens}


def _asset_seconds(
    weights: Weights, settings: LanguageModelSettings, seed: int, folder: Path
) -> tuple[float, Recorded]:
    """Seconds from the start of the step to its success, the engine being loaded already, and its requests."""
    os.environ["CAI_HOME"] = str(folder / "home")
    sampling = {"temperature": 0.7, "seed": seed}
    config = {
        "prompts": {"sources": [str(_write_prompts(folder))]},
        "initial_responses": {"max_tokens": 24, **sampling},
        "revision_rounds": {
            "rounds": 1,
            "splits": [split.value for split in Split],
            "critique_max_tokens": 24,
            "revision_max_tokens": 32,
            **sampling,
        },
    }
    ledger = LedgerResource()
    model = LanguageModelResource(ledger=ledger, **{**settings.model_dump(), "model": str(weights.folder)})
    graph = build_definitions({"ledger": ledger, "policy": model, "feedback_model": model})
    keys = [dg.AssetKey(asset) for asset in ASSETS]
    job = graph.resolve_implicit_job_def_def_for_assets(keys)
    assert job is not None
    run_config = {"ops": {asset: {"config": values} for asset, values in config.items()}}
    recorded: Recorded = []
    with dg.DagsterInstance.ephemeral() as instance, recording(InProcess, recorded):
        result = job.execute_in_process(run_config, instance, "v1", asset_selection=keys)
        (step,) = instance.get_run_step_stats(result.run_id, ["revision_rounds"])
    assert step.start_time is not None
    assert step.end_time is not None
    calls = result.asset_materializations_for_node("revision_rounds")[0].metadata["ledger_misses"].value
    return step.end_time - step.start_time, recorded[-int(calls) :]  # the stage is the last to ask


def _write_prompts(folder: Path) -> Path:
    """The bundled prompts, each with every variant added to its last turn."""
    file = folder / "prompts.jsonl"
    with file.open("w") as lines:
        for source in sorted((PROJECT / "prompts").glob("*.jsonl")):
            for row in map(json.loads, source.read_text().splitlines()):
                turns = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
                for variant in VARIANTS:
                    last = {**turns[-1], "content": turns[-1]["content"] + variant}
                    lines.write(json.dumps({"messages": [*turns[:-1], last]}) + "\n")
    return file


def _generate_seconds(weights: Weights, settings: LanguageModelSettings, recorded: Recorded) -> float:
    """Seconds of one `LLM.generate` over the recorded requests, in an engine of the same settings."""
    prepare_vllm(False, settings.cpu_cache_gib)
    from vllm import LLM

    llm = LLM(**engine_arguments(weights, settings))
    prompts: list[Any] = [{"prompt_token_ids": call.token_ids} for call, _ in recorded]
    parameters = [replace(call, max_tokens=tokens, ignore_eos=True).sampling_params() for call, tokens in recorded]
    llm.generate(prompts[:1], parameters[:1], use_tqdm=False)
    started = time.perf_counter()
    llm.generate(prompts, parameters, use_tqdm=False)
    return time.perf_counter() - started
