"""The accelerator (GPU, or all cores of a CPU): one model on it at a time, in all processes of this machine.

Dagster's pool "gpu" keeps runs apart; the file lock here covers what pools do not limit, such as ad-hoc
materialization. What is loaded belongs to the process, not to a resource object: Dagster may make several of those.
"""

import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cai_dagster.home import Home
from cai_dagster.settings import LanguageModelSettings
from cai_dagster.weights import Weights

if TYPE_CHECKING:
    from resources.vllm_engine import VllmEngine

Log = Callable[[str], None]


class _Accelerator:
    def __init__(self) -> None:
        self._lock: FileLock | None = None
        self._engine: VllmEngine | None = None
        self._loaded: tuple[str, LanguageModelSettings] | None = None

    def engine(self, weights: Weights, settings: LanguageModelSettings, log: Log) -> "VllmEngine":
        """The engine for these weights; another one that is loaded makes room for it."""
        if self._engine is None or self._loaded != (weights.digest, settings):
            from resources.vllm_engine import VllmEngine

            self._unload()
            self._acquire(log)
            log(f"starting vLLM with {weights.name} from {weights.folder}")
            self._engine = VllmEngine(weights, settings)
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
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _unload(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = self._loaded = None

    def _acquire(self, log: Log) -> None:
        if self._lock is not None:
            return
        path = Home.from_environment().accelerator_lock
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log(f"another process has a model loaded ({path} is locked); waiting for it to finish")
            lock.acquire()
        self._lock = lock


ACCELERATOR = _Accelerator()
