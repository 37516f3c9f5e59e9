"""Dagster as a program of its own: how a command has the graph materialized, and what happens on Ctrl-C.

It knows none of Dagster's code, so a command that needs none of it starts at once.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import Any

import typer
from rich.console import Console

from cai_dagster.errors import HOW_TO_GO_ON
from cai_dagster.home import Home
from cai_dagster.project import EXAMPLE_INSTANCE, PROJECT

# Progress bars and load reports of the libraries would bury the run's own log.
QUIET = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
GRAPH = "cai_dagster.definitions"
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
GRACE_SECONDS = 20.0
_STDERR = 2  # the file itself: sys.stderr may be a test's
_LOG_CONFIG = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}


def materialize(selection: str, version: str | None, config_of: dict[str, dict[str, Any]] | None = None) -> None:
    """Materialize assets of one version; `config_of` is launchpad config by asset. Exits as Dagster did."""
    prepare_instance(Home.from_environment())
    target = ["-m", GRAPH, "--select", selection, *(["--partition", version] if version else [])]
    ops = {asset: {"config": values} for asset, values in (config_of or {}).items()}
    config = ["--config-json", json.dumps({**_LOG_CONFIG, **({"ops": ops} if ops else {})})]
    run_program("dagster", "asset", "materialize", *target, *config, interrupted=HOW_TO_GO_ON)


def prepare_instance(home: Home) -> None:
    """Make this home's Dagster instance, where it has none yet."""
    instance = home.dagster / "dagster.yaml"
    if not instance.exists():
        home.dagster.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE_INSTANCE, instance)
        run_program("resources.instance")


def run_program(program: str, *arguments: str, interrupted: str = "") -> None:
    """Run a program of this environment, a module, in the project folder on this project's instance; exit as it did.

    All that it says goes to standard error: the other stream is for what a command was asked for. Ctrl-C goes to it as
    well, and it is left the time to end in good order; `interrupted` is then said last. SIGTERM is passed on to it.
    """
    home = Home.from_environment().dagster
    environment = {**QUIET, **os.environ, "DAGSTER_HOME": str(home), "CAI_PROJECT": str(PROJECT)}
    command = [sys.executable, "-m", program, *arguments]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell: Dagster would heed no signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=_STDERR)  # noqa: S603
    before = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    try:
        status = process.wait()
    except KeyboardInterrupt:
        _wait_for_interrupted(process)
        if interrupted:
            Console(highlight=False).print(interrupted, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if status:
        raise typer.Exit(status)


def _wait_for_interrupted(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end of a program that got the terminal's Ctrl-C too; interrupt it again when it takes too long."""
    while True:
        try:
            process.wait(GRACE_SECONDS)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            process.send_signal(signal.SIGINT)
        else:
            return
