"""What a check is given and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Measurement:
    """The measured value (None: there is nothing to measure it on) and rows that show it.

    Where the value is the lower end of an interval, `estimate` is the figure in it.
    """

    value: float | None
    rows: int
    examples: list[dict[str, Any]]
    estimate: float | None = None


@dataclass(frozen=True)
class Tables:
    """What checks look at.

    The rows of one table and version, those set aside of it, and other tables of that version; earlier results of the
    checks on this table (as in check_results, the newest last), and what those that ran before on these rows measured.
    `bases` are the version that this one is based on, its base, and so on.
    """

    rows: pl.LazyFrame
    rejected: pl.DataFrame = field(default_factory=pl.DataFrame)
    others: Mapping[str, pl.LazyFrame] = field(default_factory=dict[str, pl.LazyFrame])
    constitution_version: str | None = None
    bases: Sequence[str] = ()
    data_version: str = ""
    history: pl.DataFrame = field(default_factory=pl.DataFrame)
    measured: Mapping[str, Measurement] = field(default_factory=dict[str, Measurement])
