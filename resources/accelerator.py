"""The accelerator: one model on it at a time. A GPU is locked for the whole machine, whatever the home or the user.

Without a GPU the cores are locked for the processes of one home; those of other homes share them.

Dagster's pool "gpu" keeps runs apart; the file locks here cover what pools do not limit, such as ad-hoc
materialization. What is loaded belongs to the process, not to a resource object: Dagster may make several of those.
Servers that are elsewhere need no lock; they are kept here all the same, so that there is one way to an engine.
"""

import contextlib
import os
from collections.abc import Generator, Sequence
from pathlib import Path

from cai_dagster.home import Home
from cai_dagster.lake.leases import hold, hold_if_free
from cai_dagster.models.hardware import visible_gpus
from cai_dagster.models.settings import EngineKind, LanguageModelSettings
from cai_dagster.models.weights import Weights
from resources.engines.protocol import Log, StartedEngine

LOCKS_OF_GPUS = Path("/tmp")  # noqa: S108  (where every user of the machine finds the same files)


class _Accelerator:
    def __init__(self) -> None:
        self._held: list[int] = []
        self._engine: StartedEngine | None = None
        self._loaded: tuple[str, LanguageModelSettings] | None = None

    def engine(self, weights: Weights, settings: LanguageModelSettings, log: Log) -> StartedEngine:
        """The engine for these weights; another one that is loaded makes room for it."""
        failed = self._engine is not None and self._engine.has_failed
        if self._engine is None or failed or self._loaded != (weights.digest, settings):
            self._unload()
            if settings.engine != EngineKind.http:
                self._acquire(log)
            self._engine = _start(weights, settings, log, self._held)
            self._loaded = (weights.digest, settings)
        return self._engine

    @contextlib.contextmanager
    def reserved(self, log: Log) -> Generator[None]:
        """The whole accelerator, for training or scoring; a loaded engine makes room."""
        self._unload()
        self._acquire(log)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Unload what is loaded and let other processes in."""
        self._unload()
        while self._held:
            os.close(self._held.pop())

    def _unload(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = self._loaded = None

    def _acquire(self, log: Log) -> None:
        if self._held:
            return
        for lock in _locks():  # in one order for all, so that nobody waits in a circle
            lock.parent.mkdir(parents=True, exist_ok=True)
            held = hold_if_free(lock)
            if held is None:
                log(f"another process has a model loaded ({lock} is locked); waiting for it to finish")
                held = hold(lock)
            self._held.append(held)


def _locks() -> list[Path]:
    gpus = [LOCKS_OF_GPUS / f"cai_dagster-gpu-{name}.lock" for name in visible_gpus()]
    return gpus or [Home.from_environment().accelerator_lock]


def _start(weights: Weights, settings: LanguageModelSettings, log: Log, locks: Sequence[int]) -> StartedEngine:
    """One config switch: where the model is served. What it answers is the same everywhere."""
    match settings.engine:
        case EngineKind.http:
            from resources.engines.http.engine import HttpEngine

            log(f"asking {', '.join(settings.base_urls)} for {weights.name}")
            return HttpEngine(weights, settings, log)
        case EngineKind.ray:
            from resources.engines.ray.engine import RayEngine

            log(f"starting {settings.replicas} replicas of {weights.name} on Ray")
            return RayEngine(weights, settings, log)
        case _:
            from resources.engines.vllm.engine import VllmEngine

            log(f"starting vLLM with {weights.name} from {weights.folder}")
            return VllmEngine(weights, settings, log, locks)


ACCELERATOR = _Accelerator()
