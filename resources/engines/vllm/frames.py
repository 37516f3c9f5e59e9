"""What the run's process and vLLM's process say to each other, and how it goes through a socket."""

import socket
import struct
from pathlib import Path

import msgspec

from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from resources.engines.vllm.calls import TokenAnswer, TokenCall

_LENGTH = struct.Struct("<Q")


class Begin(msgspec.Struct, frozen=True, tag=True):
    """What is to be served; the first message. Weights and settings as text."""

    name: str
    folder: str
    digest: str
    adapter: str | None
    settings: str

    @classmethod
    def of(cls, weights: Weights, settings: LanguageModelSettings) -> "Begin":
        """The message for these weights and settings."""
        adapter = None if weights.adapter is None else str(weights.adapter)
        return cls(weights.name, str(weights.folder), weights.digest, adapter, settings.model_dump_json())

    def read(self) -> tuple[Weights, LanguageModelSettings]:
        """The weights and settings that it was made of."""
        adapter = None if self.adapter is None else Path(self.adapter)
        weights = Weights(self.name, Path(self.folder), self.digest, adapter)
        return weights, LanguageModelSettings.model_validate_json(self.settings)


class Asked(msgspec.Struct, frozen=True, tag=True):
    """Calls to be made, each with its number."""

    calls: list[tuple[int, TokenCall]]


class Closing(msgspec.Struct, frozen=True, tag=True):
    """vLLM is not needed any more."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """vLLM serves."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """vLLM could not start, or has stopped."""

    reason: str


class Answered(msgspec.Struct, frozen=True, tag=True):
    """Answers by the number of their call; an error's text where there is none."""

    answers: list[tuple[int, TokenAnswer | None, str]]


Message = Begin | Asked | Closing | Started | Failed | Answered
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def send(connection: socket.socket, message: Message) -> None:
    """Write one message."""
    content = _encode(message)
    connection.sendall(_LENGTH.pack(len(content)) + content)


def receive(connection: socket.socket) -> Message | None:
    """The next message; None at the end of the connection."""
    head = _read(connection, _LENGTH.size)
    content = None if head is None else _read(connection, _LENGTH.unpack(head)[0])
    return None if content is None else _decode(content)


def _read(connection: socket.socket, size: int) -> bytes | None:
    content = bytearray()
    while len(content) < size:
        part = connection.recv(min(size - len(content), 1 << 20))
        if not part:
            return None
        content += part
    return bytes(content)
