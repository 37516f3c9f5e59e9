"""Scripted engines in the processes of a real Ray cluster: for tests of what is around them."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

from cai_dagster.calls.requests import Answer, Request
from cai_dagster.models.chat_format import ContextTooLongError
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from tests.scripted import ScriptedEngine


class ScriptedReplica(ScriptedEngine):
    """Answers as ScriptedEngine does, and notes each call in a file that is named after its process.

    The text of the last message may ask for trouble: `too long`, `out of order`, or `kill`.
    """

    def __init__(self, notes: Path, delay: float, dtype: str) -> None:
        super().__init__(delay=lambda request: delay)
        self.notes = notes / str(os.getpid())
        self.notes.write_text(f"{dtype}\n")

    async def complete(self, request: Request) -> Answer:
        with self.notes.open("a") as notes:
            notes.write(f"{request.slot.prompt_id} {request.slot.round}\n")
        match request.messages[-1].content:
            case "too long":
                raise ContextTooLongError("9 tokens do not fit 8")
            case "out of order":
                raise ValueError("the engine is out of order")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return await super().complete(request)

    def close(self) -> None:
        (self.notes.parent / "closed").touch()


@dataclass(frozen=True)
class StartScripted:
    """What a replica is started with; `notes` is a folder."""

    notes: Path
    delay: float = 0.0

    def __call__(self, weights: Weights, settings: LanguageModelSettings) -> ScriptedReplica:
        return ScriptedReplica(self.notes, self.delay, settings.dtype)

    def calls(self, prompt: str) -> dict[int, list[str]]:
        """The calls that each process was sent for prompts whose id begins so."""
        calls = {int(file.name): file.read_text().splitlines()[1:] for file in self._files()}
        of_prompt = {pid: [call for call in calls if call.startswith(prompt)] for pid, calls in calls.items()}
        return {pid: calls for pid, calls in of_prompt.items() if calls}

    def alive(self) -> list[int]:
        """The processes that have not ended."""
        return [int(file.name) for file in self._files() if psutil.pid_exists(int(file.name))]

    def types(self) -> list[str]:
        """The numerical types that processes were told to load the model in."""
        return [file.read_text().splitlines()[0] for file in self._files()]

    def _files(self) -> list[Path]:
        return list(self.notes.glob("[0-9]*"))


def refuse_to_start(weights: Weights, settings: LanguageModelSettings) -> ScriptedReplica:
    """An engine that cannot load its model."""
    raise MemoryError("the model does not fit this GPU")


def die_on_starting(weights: Weights, settings: LanguageModelSettings) -> ScriptedReplica:
    """An engine whose process dies while it loads its model."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")
