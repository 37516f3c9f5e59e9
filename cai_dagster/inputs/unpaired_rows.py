"""Unpaired rows, KTO's: one completion a row with a label, of which two of one prompt make a pair."""

import json
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cai_dagster.errors import RowError
from cai_dagster.inputs.files import SourceRow
from cai_dagster.inputs.settings import PreferenceColumns

_LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


class UnpairedRowError(RowError):
    """A completion with a label, and no other of its prompt with the opposite label."""

    code = "unpaired"


@dataclass(frozen=True)
class PairedRows:
    """Two rows that make a pair, in their order, and the cells of that pair."""

    rows: tuple[SourceRow, SourceRow]
    cells: Mapping[str, Any]


@dataclass
class UnpairedRows:
    """Rows that wait for their partner: one of the same prompt (and `pair_id`, if any) with the other label."""

    columns: PreferenceColumns
    _waiting: dict[tuple[str, bool], deque[SourceRow]] = field(
        default_factory=lambda: defaultdict[tuple[str, bool], deque[SourceRow]](deque)
    )

    def add(self, row: SourceRow) -> PairedRows | None:
        """The pair that the row completes, or None where it waits. Raises UnpairedRowError where its label is none."""
        label = _LABELS.get(str(row.cells.get("label")).strip().casefold())
        if label is None:
            raise UnpairedRowError(f"label is {str(row.cells.get('label'))[:40]!r}; it has to be true or false")
        prompt = [row.cells.get("pair_id"), row.cells.get(self.columns.prompt_column)]
        key = json.dumps(prompt, sort_keys=True, default=str)
        if not self._waiting[key, not label]:
            self._waiting[key, label].append(row)
            return None
        partner = self._waiting[key, not label].popleft()
        chosen, rejected = (row, partner) if label else (partner, row)
        sides = {
            self.columns.chosen_column: chosen.cells["completion"],
            self.columns.rejected_column: rejected.cells["completion"],
        }
        return PairedRows((partner, row), {**partner.cells, **sides})

    def left(self) -> Iterator[SourceRow]:
        """The rows that found no partner."""
        for rows in self._waiting.values():
            yield from rows
