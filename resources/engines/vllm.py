"""vLLM in this process, on CPU or GPU: an `Engine` whose requests enter and leave its running batch one by one.

One thread drives `LLMEngine.add_request` and `step`; each finished request resolves the future that waits for it.
It knows nothing of Dagster or the ledger.
"""

import asyncio
import contextlib
import gc
import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from cai_dagster.calls.requests import Answer, Request
from cai_dagster.models.chat_format import ChatFormat, fitting, keep_to_this_machine
from cai_dagster.models.hardware import resolve_dtype
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights, lora_rank
from resources.engines.protocol import Log

TELL_SECONDS = 0.5
# What vLLM says of a start that a person wants to know; the rest is for its developers.
_PHASES = re.compile(
    r"Loading weights took|Model loading took|KV cache size|Maximum concurrency|torch\.compile|Capturing|"
    r"Graph capturing finished|init engine"
)


class _Phases(logging.Handler):
    """Keeps the phases of a start that vLLM logs, in whatever thread."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if _PHASES.search(message):
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
class _Generation:
    token_ids: list[int]
    parameters: Any
    waiting: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)


class VllmEngine:
    """One model loaded in this process. Close it to give its memory back.

    `log` is told of the phases of the start: weights, cache, captured graphs.
    """

    def __init__(self, weights: Weights, settings: LanguageModelSettings, log: Log = lambda _: None) -> None:
        self._format = ChatFormat(weights.folder, settings.chat_options)
        self._max_model_len = settings.max_model_len
        self._calls: queue.SimpleQueue[_Generation | None] = queue.SimpleQueue()
        self._lora = None if weights.adapter is None else str(weights.adapter)
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

    async def complete(self, request: Request) -> Answer:
        """Generate. Raises ContextTooLongError when prompt and max_tokens do not fit the context."""
        from vllm import SamplingParams

        sampling = request.sampling
        token_ids = self._format.prompt_ids(request.messages, request.prefill)
        fitting(token_ids, sampling.max_tokens, self._max_model_len)
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=request.seed,
            stop=self._format.stop_strings,
            skip_special_tokens=not self._format.keeps_special_tokens,
        )
        output = (await self._ask(token_ids, parameters)).outputs[0]
        text = self._format.answer(output.text)
        return Answer(text, str(output.finish_reason), len(token_ids), len(output.token_ids), 0.0)

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:
        """Log probabilities of the choices' tokens after the prefill; None for one the engine did not return."""
        from vllm import SamplingParams

        token_ids, labels = self._format.choice_ids(request.messages, request.prefill, choices)
        fitting(token_ids, 1, self._max_model_len)
        parameters = SamplingParams(temperature=0, max_tokens=1, logprob_token_ids=labels)
        output = (await self._ask(token_ids, parameters)).outputs[0]
        returned = output.logprobs[0]
        logprobs = tuple(returned[label].logprob if label in returned else None for label in labels)
        return Answer(output.text, str(output.finish_reason), len(token_ids), 1, 0.0, logprobs)

    def close(self) -> None:
        """Stop the engine and give its memory back."""
        self._calls.put(None)
        self._thread.join()
        gc.collect()

    def _lora_request(self) -> Any:
        if self._lora is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, self._lora)

    async def _ask(self, token_ids: list[int], parameters: Any) -> Any:
        if self._failure is not None:
            raise RuntimeError("the engine has stopped after an earlier failure") from self._failure
        call = _Generation(token_ids, parameters, asyncio.get_running_loop().create_future())
        self._calls.put(call)
        return await call.waiting

    def _run(self, weights: Weights, settings: LanguageModelSettings) -> None:
        try:
            engine = _start(weights, settings)
        except BaseException as error:  # noqa: BLE001  (raised in the thread that waits)
            self._failure = error
            return
        finally:
            self._started.set()
        self._drive(engine)
        engine.engine_core.shutdown()

    def _drive(self, engine: Any) -> None:
        """Feed and step the engine until `close`; a failure of the engine fails every call in it."""
        running: dict[str, _Generation] = {}
        number = 0
        while True:
            while not self._calls.empty() or not running:
                call = self._calls.get()
                if call is None:
                    return
                number += 1
                call_id = str(number)
                running[call_id] = call
                try:
                    engine.add_request(
                        call_id,
                        {"prompt_token_ids": call.token_ids},
                        call.parameters,
                        lora_request=self._lora_request(),
                    )
                except Exception as error:  # noqa: BLE001  (it belongs to the caller)
                    _resolve(running.pop(call_id), error=error)
            try:
                outputs = engine.step()
            except Exception as error:  # noqa: BLE001  (it belongs to the callers)
                self._failure = error
                for call in running.values():
                    _resolve(call, error=error)
                return
            for output in outputs:
                if output.finished:
                    _resolve(running.pop(output.request_id), output)


def _start(weights: Weights, settings: LanguageModelSettings) -> Any:
    """A `vllm.LLMEngine` in this process."""
    arguments = engine_arguments(weights, settings)
    from vllm import EngineArgs, LLMEngine

    return LLMEngine.from_engine_args(EngineArgs(**arguments))


def engine_arguments(weights: Weights, settings: LanguageModelSettings) -> dict[str, Any]:
    """The arguments that vLLM is given for these weights and settings. Sets the environment that vLLM reads as well."""
    keep_to_this_machine()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_cache_gib)
    from vllm.platforms import current_platform

    arguments: dict[str, Any] = {
        "model": str(weights.folder),
        "dtype": resolve_dtype(settings.dtype),
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.calls_in_flight,
        "trust_remote_code": settings.trust_remote_code,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enable_prefix_caching": True,
        "load_format": "safetensors",
        "disable_log_stats": True,
    }
    if weights.adapter is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": lora_rank(weights.adapter)}
    if current_platform.is_cpu():
        # A seeded request in a chunked prefill fails on the CPU ("CPU Generator does not use offset").
        arguments |= {"enforce_eager": True, "enable_chunked_prefill": False, "block_size": 32}
        arguments["max_num_batched_tokens"] = max(4096, settings.max_model_len)
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    return arguments


def _resolve(call: _Generation, output: Any = None, error: Exception | None = None) -> None:
    def settle() -> None:
        if call.waiting.done():
            return
        if error is not None:
            call.waiting.set_exception(error)
        else:
            call.waiting.set_result(output)

    with contextlib.suppress(RuntimeError):  # its loop has ended: the stage was interrupted, and nobody waits
        call.loop.call_soon_threadsafe(settle)
