"""Tokens and seconds of calls that nobody has made, from those that somebody has."""

import math
from collections.abc import Mapping, Sequence

import polars as pl

from cai_dagster.calls.ledger import CallLengths
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.training.checkpoint_folders import records
from cai_dagster.training.checkpoints import read_record

_PAID = """
    SELECT table_name, model_id, prompt_tokens + completion_tokens AS tokens, engine_seconds AS seconds
    FROM lake.materializations WHERE ledger_misses > 0 AND tokens > 0
"""
_CONFIDENCE = 1.96  # standard deviations either side: 95 % of a normal distribution


class Estimates:
    """What calls and trainings cost so far in this home."""

    def __init__(self, lake: Lake, lengths: Sequence[CallLengths]) -> None:
        self._lengths = lengths
        self._accounts = lake.select(_PAID, {})

    def tokens(self, model_id: str, new: Mapping[str, int]) -> tuple[float, float, float] | None:
        """Expected tokens of `new` calls by stage, and their 95 % prediction interval.

        The sum of m new calls, when n were measured with mean μ and variance σ², is mμ ± 1.96·σ·√(m + m²/n).
        """
        expected = spread = 0.0
        for stage, calls in new.items():
            measured = [length for length in self._lengths if length.stage == stage]
            own = [length for length in measured if length.model_id == model_id] or measured
            if not own:
                return None
            best = max(own, key=lambda length: length.calls)
            expected += calls * best.mean
            spread += best.variance * (calls + calls**2 / best.calls)
        half = _CONFIDENCE * math.sqrt(spread)
        return expected, max(0.0, expected - half), expected + half

    def seconds(self, table: str, model_id: str, tokens: float) -> float | None:
        """At the rate of this model in this stage; in any stage, where it has not been measured in this one."""
        for accounts in (
            self._accounts.filter(pl.col("table_name") == table, pl.col("model_id") == model_id),
            self._accounts.filter(pl.col("model_id") == model_id),
            self._accounts.filter(pl.col("table_name") == table),
        ):
            if accounts.height:
                return tokens * float(accounts.select(pl.sum("seconds") / pl.sum("tokens")).item())
        return None

    def training_seconds(self, home: Home, asset: str) -> float | None:
        """The mean of the checkpoints that are here."""
        found = [read_record(file.parent) for file in records(home, asset)]
        return sum(record.seconds for record in found) / len(found) if found else None
