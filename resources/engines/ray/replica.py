"""What runs in a replica's process on a Ray cluster: one engine, and the methods that `ray_engine` calls there.

It knows nothing of Ray: `ray_engine` makes an actor of it.
"""

import os
import socket
from collections.abc import Callable

from cai_dagster.calls.requests import Answer, Request
from cai_dagster.home import Home
from cai_dagster.models.settings import EngineKind, LanguageModelSettings
from cai_dagster.models.weights import Weights, weights_of, with_adapter
from resources.engines.protocol import StartedEngine

StartEngine = Callable[[Weights, LanguageModelSettings], StartedEngine]


class ReplicaError(RuntimeError):
    """Replicas cannot serve the model; the message says which, where and why."""


def start_vllm(weights: Weights, settings: LanguageModelSettings) -> StartedEngine:
    """Start vLLM on the replica's node: in the replica's process, or in one of its own beside a GPU."""
    from resources.engines.vllm.engine import VllmEngine

    return VllmEngine(weights, settings.model_copy(update={"engine": EngineKind.auto}))


class Replica:
    """One engine, started by the first call."""

    _engine: StartedEngine

    async def start(
        self, start_engine: StartEngine, weights: Weights, settings: LanguageModelSettings, home: Home
    ) -> str:
        """Load the model; returns where. Raises ReplicaError with the name of the node."""
        place = f"{socket.gethostname()} (process {os.getpid()})"
        try:
            _refuse_other_weights(weights, home)
            self._engine = start_engine(weights, settings)
        except Exception as error:
            # As text: what a library raised there need not be loadable here.
            raise ReplicaError(f"a replica cannot start on {place}: {type(error).__name__}: {error}") from error
        return place

    async def complete(self, request: Request) -> Answer:
        """Generate."""
        return await self._engine.complete(request)

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:
        """Log probabilities of the choices."""
        return await self._engine.choose(request, choices)

    async def close(self) -> None:
        """Give the engine's memory and processes back."""
        self._engine.close()


def _refuse_other_weights(weights: Weights, home: Home) -> None:
    """Every node has its own look at the folder: the identity of the weights is part of every request id."""
    if not weights.folder.is_dir():
        raise ReplicaError(f"{weights.folder} is not there; every node must have the model's folder at the same path")
    found = weights_of(weights.name, weights.folder, home)
    if weights.adapter is not None:
        found = with_adapter(found, weights.adapter, home)
    if found.digest != weights.digest:
        raise ReplicaError(
            f"{weights.folder} holds other files than on the machine that asks ({found.digest[:16]} instead of "
            f"{weights.digest[:16]}); copy the model anew or put it on a file system that all nodes share"
        )
