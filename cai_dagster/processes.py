"""What the processes of one run tell each other: values as msgpack, and that the run's own process has ended."""

import os
import threading
from collections.abc import Callable, Generator
from typing import IO, Any, TypeVar

import msgspec
from pydantic import BaseModel

T = TypeVar("T")

LENGTH_BYTES = 4


def encoded(value: Any) -> bytes:
    """A value of dataclasses, settings, paths and plain types, for `decoded` in another process."""
    return msgspec.msgpack.encode(value, enc_hook=as_plain)


def decoded(content: bytes, kind: type[T]) -> T:
    """The value of this type."""
    return msgspec.msgpack.decode(content, type=kind, dec_hook=from_plain)


def send(output: IO[bytes], value: Any) -> None:
    """Write a value for `received`."""
    content = encoded(value)
    output.write(len(content).to_bytes(LENGTH_BYTES, "big") + content)
    output.flush()


def received(source: IO[bytes], kind: type[T]) -> Generator[T]:
    """The values that another process sends, until it ends."""
    while len(length := source.read(LENGTH_BYTES)) == LENGTH_BYTES:
        content = source.read(int.from_bytes(length, "big"))
        yield decoded(content, kind)


def when_the_run_ends(end: Callable[[], None]) -> None:
    """Call `end`, from a thread of its own, when the process that holds the other end of our input has ended."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        end()

    threading.Thread(target=wait, daemon=True).start()


def as_plain(value: Any) -> Any:
    """Msgspec's enc_hook for settings and paths."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def from_plain(kind: type[Any], value: Any) -> Any:
    """Msgspec's dec_hook for settings, which may have been of a subclass with fields of its own, and paths."""
    if issubclass(kind, BaseModel):
        return kind.model_validate({name: value[name] for name in kind.model_fields})
    return kind(value)
