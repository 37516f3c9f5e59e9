"""vLLM on a Ray cluster: an `Engine` whose calls are spread over replicas, each with the whole model.

A replica is a Ray actor: a process with an engine of its own, on whatever node Ray finds room. When one dies, a new
one takes its place and the calls that were in it are sent again; nothing is recorded before an answer is here, so
nothing is lost and nothing is counted twice. It knows nothing of Dagster or the ledger.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from cai_dagster.calls.requests import Answer, Request
from cai_dagster.errors import RowError
from cai_dagster.hashing import unit_interval
from cai_dagster.home import Home
from cai_dagster.models.hardware import resolve_dtype
from cai_dagster.models.settings import Dtype, LanguageModelSettings
from cai_dagster.models.weights import Weights
from resources.engines.protocol import Log
from resources.engines.ray.replica import Replica, ReplicaError, StartEngine, start_vllm

DEATHS = 3  # of a replica in a row, none of its processes having answered: then it cannot run at all
SENDS = 5  # of one call, each to a replica that died over it: then the call may be what kills them
WAITING_SECONDS = 30.0
CLOSING_SECONDS = 30.0
_CALLS_IN_ACTOR = 10_000  # no limit in practice: what does not fit the engine's batch queues in the engine
_OBJECT_STORE_BYTES = 100 * 2**20  # calls and answers are small; weights do not go through Ray


class RayEngine:
    """`settings.replicas` replicas of one model. Close it to end them, and the cluster if it was started here."""

    def __init__(
        self,
        weights: Weights,
        settings: LanguageModelSettings,
        log: Log,
        start_engine: StartEngine = start_vllm,
    ) -> None:
        """Returns as soon as one replica serves. Raises ReplicaError when one cannot be started."""
        self._log = log
        self._deaths: Counter[int] = Counter()
        self._processes: list[_Process] = []
        self._own_cluster = _connect(settings.ray_address, settings.replicas)
        try:
            self._actor = _actor_class(settings, self._own_cluster)
            # The type is part of every request id: decided here, not by the hardware of a node.
            exact = settings.model_copy(update={"dtype": Dtype(resolve_dtype(settings.dtype))})
            self._served = (start_engine, weights, exact, Home.from_environment())
            self._processes = [self._launch(number) for number in range(settings.replicas)]
            self._wait_for_one()
        except BaseException:
            self.close()
            raise

    async def complete(self, request: Request) -> Answer:
        """Generate. Raises RowError for what is wrong with this row, ReplicaError when no replica can answer."""
        return await self._ask(request, "complete", request)

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:
        """Log probabilities of the choices; raises what `complete` raises."""
        return await self._ask(request, "choose", request, choices)

    @property
    def has_failed(self) -> bool:
        """Never: a replica that ends is replaced."""
        return False

    def close(self) -> None:
        """End the replicas, and the cluster if it was started here."""
        import ray

        if not ray.is_initialized():
            return
        closing = [process.actor.close.remote() for process in self._processes if process.has_started]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSING_SECONDS)
        for process in self._processes:
            ray.kill(process.actor)
        self._processes = []
        if self._own_cluster:
            ray.shutdown()

    async def _ask(self, request: Request, method: str, *arguments: Any) -> Answer:
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError

        last_death: Exception | None = None
        for _ in range(SENDS):
            process = await self._choose_process(request.slot.prompt_id)
            process.in_flight += 1
            try:
                answer = await getattr(process.actor, method).remote(*arguments)
            except RayTaskError as error:
                cause: Exception = error.cause  # as it was raised; Ray's own text is a traceback
                raise cause from (None if isinstance(cause, RowError) else error)
            except (RayActorError, NodeDiedError, OutOfMemoryError) as error:
                last_death = error
                self._replace(process, error)
            else:
                self._deaths[process.number] = 0
                return answer
            finally:
                process.in_flight -= 1
        raise ReplicaError(
            f"{SENDS} replicas died while they had the same call ({request.slot}); it may be what kills them. The last "
            f"one, in Ray's words: {last_death}"
        )

    async def _choose_process(self, prompt_id: str) -> "_Process":
        """One that serves.

        The calls of one prompt go to the same replica, whose cache has their common beginning; the others would
        compute it again. A replica that dies takes only its own prompts elsewhere, and they come back to the one that
        replaces it. Load comes before the cache where the two disagree clearly.
        """
        while not (serving := self._serving()):
            await asyncio.sleep(0.5)
        preferred = max(serving, key=lambda process: unit_interval(prompt_id, process.number))
        least = min(serving, key=lambda process: process.in_flight)
        return preferred if preferred.in_flight <= 1.25 * least.in_flight + 4 else least

    def _serving(self) -> "list[_Process]":
        """The processes whose engine has started. Raises ReplicaError when one could not start."""
        for process in self._processes.copy():
            if process.announced or not process.started.done():
                continue
            error = process.started.exception()
            if error is None:
                process.announced = True
                self._log(
                    f"replica {process.number + 1} of {len(self._processes)} serves on {process.started.result()}"
                )
            else:
                self._start_failed(process, error)
        return [process for process in self._processes if process.announced]

    def _start_failed(self, process: "_Process", error: BaseException) -> None:
        from ray.exceptions import RayTaskError

        if isinstance(error, RayTaskError):  # its own answer: another attempt would end the same way
            cause: Exception = error.cause
            raise cause from error
        self._replace(process, error)

    def _replace(self, process: "_Process", error: BaseException) -> None:
        """A new process for a replica that died; once, whichever of its calls is the first to say so."""
        import ray

        number = process.number
        if process is not self._processes[number]:
            return
        self._deaths[number] += 1
        if self._deaths[number] >= DEATHS:
            raise ReplicaError(
                f"replica {number + 1} died {DEATHS} times in a row and answered nothing; in Ray's words: {error}"
            ) from error
        reason = str(error).strip().splitlines()[-1]
        self._log(f"replica {number + 1} died ({reason}); its calls are sent again, another one takes its place")
        ray.kill(process.actor)  # where Ray only lost sight of it, it must not go on to hold its GPUs
        self._processes[number] = self._launch(number)

    def _launch(self, number: int) -> "_Process":
        actor = self._actor.remote()
        return _Process(number, actor, actor.start.remote(*self._served).future())

    def _wait_for_one(self) -> None:
        while not self._serving():
            starting = [process.started for process in self._processes]
            if not wait(starting, timeout=WAITING_SECONDS, return_when=FIRST_COMPLETED).done:
                self._log(f"no replica has started yet; {_room()}")


@dataclass(eq=False)
class _Process:
    """A process of replica `number`, as the driver sees it. `started` resolves to where it runs."""

    number: int
    actor: Any
    started: "Future[str]"
    announced: bool = False
    in_flight: int = 0

    @property
    def has_started(self) -> bool:
        """Whether its engine is loaded."""
        return self.started.done() and self.started.exception() is None


def _connect(address: str, replicas: int) -> bool:
    """Connect this process to the cluster. True when it was started here and ends with the engine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray is imported
    try:
        import ray
    except ImportError as error:
        raise ReplicaError('engine = "ray" needs Ray: pip install "ray>=2.60"') from error
    if ray.is_initialized():
        return False
    here: dict[str, Any] = {
        "num_cpus": replicas,  # Ray keeps a process ready for each
        "object_store_memory": _OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    quiet: dict[str, Any] = {"namespace": "cai_dagster", "log_to_driver": False, "configure_logging": False}
    try:
        with _own_signal_handlers():
            ray.init(address or "local", **quiet, **({} if address else here))
    except ConnectionError as error:
        raise ReplicaError(
            f'no Ray cluster answers at ray_address {address!r}: {error}. On a node of the cluster use "auto"; with '
            "another address, a cluster that asks for a token needs RAY_AUTH_MODE=token here"
        ) from error
    return not address


@contextlib.contextmanager
def _own_signal_handlers() -> Generator[None]:
    """Ray replaces the handler of SIGTERM by one that exits; how a run ends is for its own handler to say."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _actor_class(settings: LanguageModelSettings, own_cluster: bool) -> Any:
    """The replica as a Ray actor, with what it needs of a node.

    Raises ReplicaError when the replicas will never fit; a cluster of others may still grow.
    """
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    needed = settings.replicas * settings.gpus
    if own_cluster and 0 < gpus < needed:
        raise ReplicaError(
            f"{settings.replicas} replicas with {settings.gpus} GPUs each need {needed}, this machine "
            f"has {gpus}: set fewer replicas or a smaller tensor_parallel_size, or name a larger cluster in ray_address"
        )
    # Without GPUs an engine takes all cores of its node whatever Ray reserves: one on each node, as far as they go.
    on_gpus: dict[str, Any] = {"num_gpus": settings.gpus, "num_cpus": 1}
    on_cpus: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
    # Replaced from here, not restarted by Ray: while Ray restarts an actor, calls to it fail at once.
    options: dict[str, Any] = {**(on_gpus if gpus else on_cpus), "max_restarts": 0, "max_concurrency": _CALLS_IN_ACTOR}
    return ray.remote(**options)(Replica)


def _room() -> str:
    import ray

    def gpus_and_cpus(resources: Mapping[str, float]) -> str:
        return f"{resources.get('GPU', 0):g} GPUs and {resources.get('CPU', 0):g} CPUs"

    return f"the cluster has {gpus_and_cpus(ray.cluster_resources())}, free {gpus_and_cpus(ray.available_resources())}"
