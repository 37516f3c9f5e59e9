"""Fixtures for tests on the real small model: its weights are prepared once and kept in the project's own home."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cai_dagster.home import Home
from cai_dagster.settings import Dtype, LanguageModelSettings, active_settings
from cai_dagster.weights import Weights, locate_weights
from resources.accelerator import ACCELERATOR
from resources.vllm_engine import VllmEngine

T = TypeVar("T")
PROJECT_HOME = Home.from_environment()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker("e2e")


@pytest.fixture(scope="session")
def offline_weights() -> Weights:
    """SmolLM2-135M-Instruct, converted from the package's GGUF file the first time."""
    return locate_weights("offline", "", PROJECT_HOME)


@pytest.fixture(scope="session")
def engine_settings() -> LanguageModelSettings:
    return active_settings().policy.model_copy(update={"dtype": Dtype.float32, "rows_in_flight": 32})


@pytest.fixture(scope="session", autouse=True)
def give_the_accelerator_back() -> Iterator[None]:
    yield
    ACCELERATOR.release()


@pytest.fixture
def engine(offline_weights: Weights, engine_settings: LanguageModelSettings) -> VllmEngine:
    """The engine of the session, in float32: started by the first test that asks, kept for the others."""
    return ACCELERATOR.engine(offline_weights, engine_settings, print)


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
