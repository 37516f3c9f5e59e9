"""Findings of the doctor: good, a warning, or a problem with its remedy."""

import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

MEND = "cai doctor --mend"


class Level(StrEnum):
    """How bad it is. A problem keeps something from working; a warning does not yet."""

    good = "good"
    warning = "warning"
    problem = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and the command (or what else) that mends it."""

    topic: str
    level: Level
    text: str
    remedy: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """For scripts."""
        return asdict(self)


def quoted(path: object) -> str:
    """A path as it stands in a command."""
    return shlex.quote(str(path))


def good(topic: str, text: str) -> Finding:
    """Nothing to mend."""
    return Finding(topic, Level.good, text)


def warning(topic: str, text: str, remedy: str) -> Finding:
    """It works, and one should know."""
    return Finding(topic, Level.warning, text, remedy)


def problem(topic: str, text: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(topic, Level.problem, text, remedy)


def some_of(names: Iterable[str], most: int) -> str:
    """The first names, and how many more there are."""
    every = list(names)
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more:,} more" if more > 0 else "")
