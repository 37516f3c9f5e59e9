"""`python -m resources.engines.vllm.host FD`: the process that vLLM has for itself.

It takes calls from a socket and writes the answers there as they finish. When the socket ends, the run's process has
ended, and this one ends with all that it has started.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from cai_dagster.models.library_environment import prepare_vllm
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from cai_dagster.text import printable
from resources.engines.vllm.arguments import engine_arguments, lora_request
from resources.engines.vllm.calls import TokenAnswer, TokenCall
from resources.engines.vllm.frames import Answered, Asked, Begin, Closing, Failed, Started, receive, send

GRACE_SECONDS = 5.0  # for vLLM to end by itself when the run's process has ended


class Served(Protocol):
    """A model that answers calls; raises whatever it raises."""

    @property
    def errored(self) -> bool:
        """Whether it has stopped."""
        ...

    async def ask(self, number: int, call: TokenCall) -> TokenAnswer:
        """The answer to a call."""
        ...

    def shutdown(self) -> None:
        """End it."""
        ...


Start = Callable[[Weights, LanguageModelSettings], Served]
Calls = asyncio.Queue[list[tuple[int, TokenCall]] | None]


class AsyncVllm:
    """vLLM's `AsyncLLM`, which has its engine in processes of its own."""

    def __init__(self, weights: Weights, settings: LanguageModelSettings) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(weights, settings)))
        self._adapter = lora_request(weights)

    @property
    def errored(self) -> bool:
        """Whether its engine has died."""
        return self._llm.errored

    async def ask(self, number: int, call: TokenCall) -> TokenAnswer:
        """The whole answer."""
        prompt: Any = {"prompt_token_ids": call.token_ids}
        answers = self._llm.generate(prompt, call.sampling_params(), str(number), lora_request=self._adapter)
        return [TokenAnswer.of(output, call) async for output in answers][-1]

    def shutdown(self) -> None:
        """End its processes."""
        self._llm.shutdown()


class _Host:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._answers: list[tuple[int, TokenAnswer | None, str]] = []
        self._unwritten = threading.Condition()

    async def serve(self, start: Start, weights: Weights, settings: LanguageModelSettings) -> None:
        """Start the model, and answer calls until the connection ends."""
        calls: Calls = asyncio.Queue()
        threading.Thread(target=self._read, args=(asyncio.get_running_loop(), calls), daemon=True).start()
        served = start(weights, settings)
        try:
            gc.collect()
            gc.freeze()  # what was loaded is not looked through for garbage again
            threading.Thread(target=self._write, daemon=True).start()
            self.say(Started())
            tasks: set[asyncio.Task[None]] = set()
            while (some := await calls.get()) is not None:
                for number, call in some:
                    task = asyncio.create_task(self._answer(served, number, call))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
        finally:
            served.shutdown()

    def say(self, message: Started | Failed | Answered) -> None:
        """Tell the run's process; where that has ended, nobody."""
        with contextlib.suppress(OSError):
            send(self._connection, message)

    async def _answer(self, served: Served, number: int, call: TokenCall) -> None:
        answer, refusal = None, ""
        try:
            answer = await served.ask(number, call)
        except Exception as error:  # noqa: BLE001  (it belongs to the caller, or ends this process)
            refusal = printable(f"{type(error).__name__}: {error}")
            if served.errored:
                self.say(Failed(refusal))
                _kill_all()
        with self._unwritten:
            self._answers.append((number, answer, refusal))
            self._unwritten.notify()

    def _read(self, loop: asyncio.AbstractEventLoop, calls: Calls) -> None:
        closing = False
        with contextlib.suppress(OSError):
            while (message := receive(self._connection)) is not None:
                if not isinstance(message, Asked):
                    closing = isinstance(message, Closing)
                    break
                loop.call_soon_threadsafe(calls.put_nowait, message.calls)
        if not closing:  # the run's process has ended, and nobody waits for this one
            ending = threading.Timer(GRACE_SECONDS, _kill_all)
            ending.daemon = True
            ending.start()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(calls.put_nowait, None)

    def _write(self) -> None:
        """Write all answers there are at once: while one message is on its way, the next ones gather."""
        while True:
            with self._unwritten:
                self._unwritten.wait_for(lambda: self._answers)
                answers, self._answers = self._answers, []
            self.say(Answered(answers))


def _kill_all() -> None:
    """End this process and all of its session at once."""
    os.killpg(0, signal.SIGKILL)


def main(descriptor: int, start: Start = AsyncVllm) -> None:
    """Serve until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's process says when
    connection = socket.socket(fileno=descriptor)
    begin = receive(connection)
    if not isinstance(begin, Begin):
        return
    prepare_vllm(True, begin.settings.cpu_cache_gib)
    import uvloop

    host = _Host(connection)
    try:
        uvloop.run(host.serve(start, begin.weights, begin.settings))
    except Exception as error:
        host.say(Failed(printable(f"{type(error).__name__}: {error}")))
        raise


if __name__ == "__main__":
    main(int(sys.argv[1]))
