"""The pages of the Dagster UI that are looked at every day, with 200 constitution versions, in a real browser.

Their history is scripted: events without rows. Debian's Chromium has to be there.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

from cai_dagster.commands.dagster_process import QUIET
from cai_dagster.project import EXAMPLE_INSTANCE, PROJECT

VERSIONS = 200
PARTS = ("assets", "benchmarks", "cai_dagster", "prompts", "resources")
FILES = ("pyproject.toml", "settings.toml", "workspace.yaml")
START_SECONDS = 120
WAIT = 60_000  # milliseconds
_JOB = "locations/cai_dagster.definitions/jobs/constitutional_ai"
# Page: its path, and what one is waiting for.
PAGES = {
    "graph": ("asset-groups", "reward_modelling"),
    "asset": ("assets/revision_rounds", "ledger_misses"),
    "partitions": ("assets/revision_rounds?view=partitions", f"Materialized ({VERSIONS})"),
    "partition": (f"assets/revision_rounds?partition=v{VERSIONS}&view=partitions", "ledger_misses"),
    "check": ("assets/revision_rounds?view=checks&checkDetail=unfinished_completions", "Latest execution"),
    "job": (f"{_JOB}/partitions", "Total partitions"),
}


def measure() -> dict[str, Any]:
    """Seconds until each page shows what one came for, and until the launch dialog does; the slowest is the result."""
    with tempfile.TemporaryDirectory() as folder:
        project = _project(Path(folder) / "project")
        port = _free_port()
        environment = {**os.environ, **QUIET, "CAI_HOME": str(project / ".cai"), "PYTHONPATH": str(project)}
        subprocess.run([sys.executable, "-m", "benchmarks.large_ui"], cwd=project, env=environment, check=True)
        command = [str(Path(sys.executable).parent / "dagster"), "dev", "-w", "workspace.yaml", "--port", str(port)]
        environment["DAGSTER_HOME"] = str(project / ".cai" / "dagster")
        with (Path(folder) / "ui.log").open("wb") as log:
            ui = subprocess.Popen(  # noqa: S603
                command, cwd=project, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            _wait_for(f"http://127.0.0.1:{port}")
            seconds = _look(f"http://127.0.0.1:{port}")
        finally:
            os.killpg(ui.pid, signal.SIGINT)
            ui.wait()
    return {"results": {"ui_seconds": max(seconds.values())}, "details": {"ui_seconds": seconds}}


def _project(folder: Path) -> Path:
    """A copy of the project with as many versions; each edits one principle of the first."""
    for part in PARTS:
        shutil.copytree(PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(PROJECT / name, folder)
    (folder / "constitutions").mkdir()
    first = (PROJECT / "constitutions" / "v1.yaml").read_text(encoding="utf-8")
    for number in range(1, VERSIONS + 1):
        edited = re.sub(r"(?m)^    critique_request: >-\n", f"\\g<0>      (edition {number})\n", first, count=1)
        (folder / "constitutions" / f"v{number}.yaml").write_text(edited, encoding="utf-8")
    return folder


def _fill() -> None:
    """Materializations and check results of every asset and version in this project's instance: events, and no rows."""
    import dagster as dg

    from cai_dagster.checks.declarations import CHECKS
    from cai_dagster.definitions import build_definitions
    from cai_dagster.home import Home

    folder = Home.from_environment().dagster
    folder.mkdir(parents=True)
    shutil.copy(EXAMPLE_INSTANCE, folder)
    graph = build_definitions().resolve_asset_graph()
    preview = dg.MetadataValue.md("| prompt | revision |\n|---|---|\n" + "| some words | some more words |\n" * 5)
    numbers = {"ledger_hits": 64, "ledger_misses": 12, "prompt_tokens": 5_772, "seconds": 37.4, "snapshot_id": 37}

    def versions(key: dg.AssetKey) -> list[str | None]:
        return [f"v{one + 1}" for one in range(VERSIONS)] if graph.get(key).is_partitioned else [None]

    with dg.DagsterInstance.from_config(str(folder)) as instance:
        for key in graph.materializable_asset_keys:
            for version in versions(key):
                event = dg.AssetMaterialization(key, partition=version, metadata={**numbers, "preview": preview})
                instance.report_runless_asset_event(event)
        for check in CHECKS:
            for version in versions(dg.AssetKey(check.table)):
                instance.report_runless_asset_event(
                    dg.AssetCheckEvaluation(
                        asset_key=dg.AssetKey(check.table),
                        check_name=check.name,
                        passed=version != f"v{VERSIONS // 2}",
                        severity=dg.AssetCheckSeverity.WARN,
                        metadata={"value": 0.1, "bound": "at most 0.05", "rows": 76},
                        partition=version,
                    )
                )


def _look(url: str) -> dict[str, float]:
    seconds: dict[str, float] = {}
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        page.goto(url)  # the UI's own files are then in the browser's cache, as they are every day
        page.wait_for_load_state("networkidle")
        for name, (path, wanted) in PAGES.items():
            seconds[name] = _seconds(page, lambda path=path: page.goto(f"{url}/{path}"), wanted)
        page.goto(f"{url}/{_JOB}")
        materialize = page.get_by_role("button", name="Materialize").first
        materialize.wait_for()
        seconds["dialog"] = _seconds(page, materialize.click, "Partition selection")
        browser.close()
    return seconds


def _seconds(page: Page, go: Callable[[], object], wanted: str) -> float:
    began = time.perf_counter()
    go()
    expect(page.get_by_text(wanted).first).to_be_visible()
    return time.perf_counter() - began


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _wait_for(url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(f"{url}/server_info", timeout=5):  # noqa: S310
            return
        time.sleep(1)
    raise TimeoutError(f"the UI did not start at {url}")


if __name__ == "__main__":
    _fill()
