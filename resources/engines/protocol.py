"""What every engine is to the accelerator that holds it."""

from collections.abc import Callable
from typing import Protocol

from cai_dagster.calls.requests import Engine

Log = Callable[[str], None]


class StartedEngine(Engine, Protocol):
    """An engine that holds memory, processes or connections until it is closed."""

    @property
    def has_failed(self) -> bool:
        """Whether it has stopped by itself: the next call needs another one."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
