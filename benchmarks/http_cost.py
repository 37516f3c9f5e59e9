"""CPU time of one call over HTTP on our side: as `call_cost`, with a local server that answers at once.

The server is another process. 1,900 prompts of 300 words through `initial_responses`, 256 calls in flight.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.call_cost import prompts, run, write
from benchmarks.offline_engine import engine_settings, offline_weights
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.settings import EngineKind
from cai_dagster.plan.stages import initial_responses_stage
from cai_dagster.settings import active_settings
from resources.engines.http.engine import HttpEngine
from tests.misbehaving_server import MisbehavingServer

ROWS = 1_900
TOKENS = 435  # of about 300 words
SLOTS = 256


def measure() -> dict[str, Any]:
    """CPU milliseconds of the run's process a call."""
    weights = offline_weights()
    command = [sys.executable, "-m", __name__, weights.name]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        settings = engine_settings(SLOTS, engine=EngineKind.http, base_urls=[url])
        with tempfile.TemporaryDirectory() as folder:
            home = Home(Path(folder))
            lake = Lake(home)
            write(lake, "prompts", None, prompts(ROWS, TOKENS))
            stage = initial_responses_stage(active_settings().initial_responses)
            measured = run(home, lake, stage, HttpEngine(weights, settings, lambda _: None))
    finally:
        server.kill()
        server.wait()
    return {"results": {"http_cpu_ms": measured["cpu_ms"]}, "details": {"slots": SLOTS, **measured}}


def _serve(model: str) -> None:
    tokenizer = ChatFormat(offline_weights().folder).tokenizer
    labels = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "AB"]
    logprobs = {labels[0]: -0.2, labels[1]: -1.9}
    server = MisbehavingServer(model, logprobs, 100, lambda token: tokenizer.decode([token])).start()
    print(server.url, flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    _serve(sys.argv[1])
