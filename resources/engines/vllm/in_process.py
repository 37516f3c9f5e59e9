"""vLLM in this process: requests enter and leave its running batch one by one.

One thread drives `LLMEngine.add_request` and `step`; each finished request resolves the future that waits for it.
"""

import asyncio
import contextlib
import gc
import logging
import os
import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from cai_dagster.models.library_environment import prepare_vllm
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from resources.engines.protocol import Log
from resources.engines.vllm.arguments import engine_arguments, lora_request
from resources.engines.vllm.calls import TokenAnswer, TokenCall, VllmError, resolve
from resources.engines.vllm.start_log import PHASES, TELL_SECONDS


class _Phases(logging.Handler):
    """Keeps the phases of a start that vLLM logs, in whatever thread."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if PHASES.search(message):
            self.said.put(message)


@contextlib.contextmanager
def _start_told(log: Log) -> Generator[Callable[[], None]]:
    """Pass on what vLLM logs of its phases, though its own output is off; what is yielded passes on what is new."""
    logger, phases = logging.getLogger("vllm"), _Phases()

    def tell() -> None:
        logger.setLevel(logging.INFO)
        if phases not in logger.handlers:  # vLLM makes the logger anew when it is imported
            logger.addHandler(phases)
        while not phases.said.empty():
            log(f"vLLM: {phases.said.get()}")

    tell()
    try:
        yield tell
        tell()
    finally:
        logger.removeHandler(phases)
        logger.setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"))


@dataclass
class _Call:
    call: TokenCall
    waiting: "asyncio.Future[TokenAnswer]"
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)


class InProcess:
    """vLLM in this process."""

    def __init__(self, weights: Weights, settings: LanguageModelSettings, log: Log = lambda _: None) -> None:
        """Returns when vLLM serves; raises what it raises."""
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._started = threading.Event()
        # One thread starts the engine and steps it: on the CPU its worker threads belong to the thread that made it.
        self._thread = threading.Thread(target=self._run, args=(weights, settings), name="vllm", daemon=True)
        with _start_told(log) as tell:
            self._thread.start()
            while not self._started.wait(TELL_SECONDS):
                tell()
        if self._failure is not None:
            raise self._failure

    @property
    def has_failed(self) -> bool:
        """Whether a step of the engine has failed."""
        return self._failure is not None

    async def ask(self, call: TokenCall) -> TokenAnswer:
        """The answer. Raises VllmError when vLLM has stopped."""
        if self._failure is not None:
            raise VllmError("the engine has stopped after an earlier failure") from self._failure
        asked = _Call(call, asyncio.get_running_loop().create_future())
        self._calls.put(asked)
        return await asked.waiting

    def close(self) -> None:
        """Stop the engine and give its memory back."""
        self._calls.put(None)
        self._thread.join()
        gc.collect()

    def _run(self, weights: Weights, settings: LanguageModelSettings) -> None:
        try:
            engine = _start(weights, settings)
        except BaseException as error:  # noqa: BLE001  (raised in the thread that waits)
            self._failure = error
            return
        finally:
            self._started.set()
        self._drive(engine, lora_request(weights))
        engine.engine_core.shutdown()

    def _drive(self, engine: Any, adapter: Any) -> None:
        """Feed and step the engine until `close`; a failure of the engine fails every call in it."""
        running: dict[str, _Call] = {}
        number = 0
        while True:
            while not self._calls.empty() or not running:
                asked = self._calls.get()
                if asked is None:
                    return
                number += 1
                call_id = str(number)
                running[call_id] = asked
                try:
                    prompt = {"prompt_token_ids": asked.call.token_ids}
                    engine.add_request(call_id, prompt, asked.call.sampling_params(), lora_request=adapter)
                except Exception as error:  # noqa: BLE001  (it belongs to the caller)
                    resolve(asked.loop, [(running.pop(call_id).waiting, error)])
            try:
                outputs = engine.step()
            except Exception as error:  # noqa: BLE001  (it belongs to the callers)
                self._failure = error
                for asked in running.values():
                    resolve(asked.loop, [(asked.waiting, error)])
                return
            for output in outputs:
                if output.finished:
                    asked = running.pop(output.request_id)
                    resolve(asked.loop, [(asked.waiting, TokenAnswer.of(output, asked.call))])


def _start(weights: Weights, settings: LanguageModelSettings) -> Any:
    """A `vllm.LLMEngine` in this process."""
    prepare_vllm(False, settings.cpu_cache_gib)
    arguments = engine_arguments(weights, settings)
    from vllm import EngineArgs, LLMEngine

    return LLMEngine.from_engine_args(EngineArgs(**arguments))
