"""What a trace is made of: nodes with facts and texts, each above those it was made from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cai_dagster.errors import MendableError
from cai_dagster.explain.checkpoints import Trained
from cai_dagster.explain.rows import RowCount

Kind = Literal["prompt", "pair", "principle", "checkpoint", "request"]


class TraceError(MendableError):
    """Nothing, or more than one thing, has the id; the message says what has."""


@dataclass(frozen=True)
class Node:
    """Something in the lake or the ledger: what is known of it, and below it what it was made from."""

    kind: str
    id: str
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    children: Sequence["Node"] = ()


@dataclass(frozen=True)
class Trace:
    """All that is known of one id.

    `constitution_version` is the one that `backwards` is about, of all `versions` that have rows of it. `checkpoints`
    is None where one has to ask for the prompt or the pair instead.
    """

    kind: Kind
    id: str
    constitution_version: str | None
    versions: Sequence[str]
    backwards: Node
    rows: Sequence[RowCount]
    checkpoints: Sequence[Trained] | None

    def to_json(self) -> dict[str, Any]:
        """As `cai trace --json` prints it; docs/explain.md describes the keys."""
        return {
            "kind": self.kind,
            "id": self.id,
            "constitution_version": self.constitution_version,
            "versions": list(self.versions),
            "backwards": asdict(self.backwards),
            "forwards": {
                "rows": [asdict(row) for row in self.rows],
                "checkpoints": None if self.checkpoints is None else [one.to_json() for one in self.checkpoints],
            },
        }


def transcript(turns: Sequence[Mapping[str, str]]) -> str:
    """Turns as one text; that of a single turn as it is."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
