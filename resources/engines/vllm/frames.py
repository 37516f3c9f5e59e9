"""What the run's process and vLLM's process say to each other, and how it goes through a socket."""

import socket
import struct

import msgspec

from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from cai_dagster.processes import as_plain, from_plain
from resources.engines.vllm.calls import TokenAnswer, TokenCall

_LENGTH = struct.Struct("<Q")


class Begin(msgspec.Struct, frozen=True, tag=True):
    """What is to be served; the first message."""

    weights: Weights
    settings: LanguageModelSettings


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
_encode = msgspec.msgpack.Encoder(enc_hook=as_plain).encode
_decode = msgspec.msgpack.Decoder(Message, dec_hook=from_plain).decode


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
