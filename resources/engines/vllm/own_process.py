"""vLLM in a process of its own: Python's lock here starves neither its scheduler nor the card.

The process (`host`) runs vLLM's `AsyncLLM` and hears of calls through a socket. It ends when the socket does, so
that nothing outlives this process, and it holds the accelerator's locks until its memory is given back.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from resources.engines.protocol import Log
from resources.engines.vllm.calls import Outcome, TokenAnswer, TokenCall, VllmError, resolve
from resources.engines.vllm.frames import Answered, Asked, Begin, Closing, Failed, Started, receive, send
from resources.engines.vllm.start_log import PHASES, TELL_SECONDS, message_of, reason_of

CLOSING_SECONDS = 30.0  # for vLLM to end by itself; then its processes are killed
_LOG_TAIL = 65_536  # bytes of vLLM's log in which the reason of its end is looked for

_Waiting = tuple[asyncio.AbstractEventLoop, "asyncio.Future[TokenAnswer]"]


class OwnProcess:
    """vLLM in a process of its own."""

    def __init__(
        self,
        weights: Weights,
        settings: LanguageModelSettings,
        log: Log = lambda _: None,
        locks: Sequence[int] = (),
        host: str = "resources.engines.vllm.host",
    ) -> None:
        """Returns when vLLM serves. Raises VllmError, with vLLM's own reason, when it cannot be started."""
        self._waiting: dict[int, _Waiting] = {}
        self._unsent: list[tuple[int, TokenCall]] = []
        self._number = 0
        self._failure: VllmError | None = None
        self._closing = False
        self._heard = threading.Event()
        self._log = tempfile.NamedTemporaryFile(prefix="cai_dagster-vllm-", suffix=".log")  # noqa: SIM115
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", host, str(theirs.fileno())]
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), *locks),
                start_new_session=True,  # an interrupt of the terminal is this process's to answer
                env={**os.environ, "VLLM_LOGGING_LEVEL": "INFO"},
            )
        self._reader = threading.Thread(target=self._read, name="vllm", daemon=True)
        try:
            send(self._socket, Begin(weights, settings))
            self._reader.start()
            self._wait_until_started(log)
        except BaseException:
            self.close()
            raise

    @property
    def has_failed(self) -> bool:
        """Whether the process has ended without being asked to."""
        return self._failure is not None

    async def ask(self, call: TokenCall) -> TokenAnswer:
        """The answer. Raises VllmError when vLLM has stopped or refuses the call."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[TokenAnswer] = loop.create_future()
        self._number += 1
        self._waiting[self._number] = (loop, waiting)
        if self._failure is not None:
            self._waiting.pop(self._number, None)  # the reader may have been first
            raise self._failure
        if not self._unsent:
            loop.call_soon(self._send)
        self._unsent.append((self._number, call))
        return await waiting

    def close(self) -> None:
        """End vLLM's processes; returns when they have ended and their memory is free."""
        self._closing = True
        parts = list(self._parts())
        with contextlib.suppress(OSError):
            send(self._socket, Closing())
            self._socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSING_SECONDS if self._heard.is_set() else 1.0)
        self._end(parts)
        if self._reader.is_alive():
            self._reader.join()
        self._socket.close()
        self._log.close()

    def _send(self) -> None:
        """All calls of one turn of the event loop."""
        calls, self._unsent = self._unsent, []
        with contextlib.suppress(OSError):  # it has ended: the reader says so to all who wait
            send(self._socket, Asked(calls))

    def _read(self) -> None:
        said = ""
        with contextlib.suppress(OSError):
            while (message := receive(self._socket)) is not None:
                match message:
                    case Started():
                        self._heard.set()
                    case Failed(reason):
                        said = reason
                    case Answered(answers):
                        self._resolve(answers)
                    case _:
                        raise AssertionError(message)
        self._note_end(said)

    def _resolve(self, answers: list[tuple[int, TokenAnswer | None, str]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
        for number, answer, error in answers:
            loop, waiting = self._waiting.pop(number)
            outcome = answer if answer is not None else VllmError(f"vLLM refuses a call: {error}")
            by_loop.setdefault(loop, []).append((waiting, outcome))
        for loop, outcomes in by_loop.items():
            resolve(loop, outcomes)

    def _note_end(self, said: str) -> None:
        """The process has ended: so have all calls in it."""
        self._end(list(self._parts()))
        code = self._process.wait()
        if not self._closing:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            self._failure = VllmError(f"vLLM's process has stopped ({how}): {reason_of(said, self._tail())}")
        failure = self._failure or VllmError("the engine was closed")
        for number in list(self._waiting):
            loop, waiting = self._waiting.pop(number)
            resolve(loop, [(waiting, failure)])
        self._heard.set()

    def _wait_until_started(self, log: Log) -> None:
        told = 0
        while not self._heard.wait(TELL_SECONDS):
            told = self._tell(log, told)
        self._tell(log, told)
        if self._failure is not None:
            raise self._failure

    def _tell(self, log: Log, told: int) -> int:
        """Pass on the phases in the lines of vLLM's log from byte `told` on; where the next ones begin."""
        with Path(self._log.name).open("rb") as lines:
            lines.seek(told)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                told += len(line)
                message = message_of(line.decode(errors="replace"))
                if PHASES.search(message):
                    log(f"vLLM: {message}")
        return told

    def _tail(self) -> str:
        with Path(self._log.name).open("rb") as lines:
            lines.seek(max(0, os.fstat(lines.fileno()).st_size - _LOG_TAIL))
            return lines.read().decode(errors="replace")

    def _parts(self) -> Iterator[psutil.Process]:
        """The processes of vLLM that are alive: the host's, and those that it has started."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self._process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def _end(self, parts: list[psutil.Process]) -> None:
        for part in parts:
            with contextlib.suppress(psutil.Error):
                part.kill()
        self._process.wait()
        for part in parts:
            with contextlib.suppress(psutil.Error):
                while part.is_running() and part.status() != psutil.STATUS_ZOMBIE:
                    threading.Event().wait(0.02)
