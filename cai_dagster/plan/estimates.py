"""Tokens and seconds of calls that nobody has made, from those that somebody has."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from cai_dagster.calls.ledger import CallLengths
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.plan.counting import NewCalls
from cai_dagster.training.checkpoint_folders import records
from cai_dagster.training.checkpoints import read_record

_PAID = """
    SELECT table_name, model_id, run_id, prompt_tokens + completion_tokens AS tokens, engine_seconds, seconds
    FROM lake.materializations WHERE ledger_misses > 0 AND tokens > 0 ORDER BY rowid
"""
_CONFIDENCE = 1.96  # standard deviations either side: 95 % of a normal distribution


@dataclass(frozen=True)
class Tokens:
    """Tokens of calls: expected (None where nothing of the kind was measured), and their 95 % interval."""

    expected: float | None
    low: float
    high: float


@dataclass(frozen=True)
class _Part:
    """What one kind of tokens adds: expected, the bounds of what is unknown, and the variance of chance."""

    expected: float
    low: float
    high: float
    variance: float


def tokens_of(
    lengths: Sequence[CallLengths], model_id: str, new: Mapping[str, NewCalls], longer: float = 0.0
) -> Tokens:
    """The tokens of `new` calls by stage, from the lengths of those that were made.

    The interval is that of chance, mμ ± 1.96·σ·√(m + m²/n) for m new calls where n were measured with mean μ and
    variance σ², and wider by what is unknown: completions that max_tokens ended may go on to the new max_tokens, those
    of another model may have any length up to it, and a prompt that quotes texts that nobody has seen yet may be
    `longer` by so many tokens.
    """
    expected: float | None = 0.0
    low = high = variance = 0.0
    for stage, calls in new.items():
        measured = [length for length in lengths if length.stage == stage]
        own = [length for length in measured if length.model_id == model_id]
        best = max(own or measured, key=lambda length: length.calls, default=None)
        for part in _parts(calls, best, bool(own), longer):
            expected = expected + part.expected if expected is not None and best is not None else None
            low, high, variance = low + part.low, high + part.high, variance + part.variance
    half = _CONFIDENCE * math.sqrt(variance)
    return Tokens(expected, max(0.0, low - half), high + half)


def _parts(new: NewCalls, best: CallLengths | None, own: bool, longer: float) -> list[_Part]:
    most = float(new.most_completion_tokens)
    known, more = new.prompt_tokens, new.quoting * longer
    if best is None:
        return [_Part(known, known, known + more, 0.0), _Part(0.0, new.calls, most, 0.0)]
    chance = new.calls + new.calls**2 / best.calls
    quoting = new.quoting * best.prompt_mean
    spread = best.prompt_variance * (new.quoting + new.quoting**2 / best.calls)
    prompts = _Part(known + quoting, known + quoting, known + quoting + more, spread)
    if not own:
        return [prompts, _Part(min(most, new.calls * best.completion_mean), min(new.calls, most), most, 0.0)]
    mean, low, high = _completion(best, most / new.calls)
    beyond = max(0.0, most / new.calls - best.longest)
    spread = best.completion_variance + beyond**2 * best.cut * (1 - best.cut)  # how many are cut is chance too
    return [prompts, _Part(new.calls * mean, new.calls * low, new.calls * high, spread * chance)]


def _completion(best: CallLengths, most: float) -> tuple[float, float, float]:
    """The mean tokens of a completion of at most `most` tokens: expected, at least, at most.

    A completion that was cut is expected to go on as if it had no memory: it ends at the rate at which others ended.
    """
    mean = best.completion_mean
    if most <= best.longest:
        return min(mean, most), mean * most / best.longest, min(mean, most)
    beyond = most - best.longest
    ending = (1 - best.cut) / max(mean, 1.0)  # completions that ended, a token
    more = beyond if ending <= 0 else (1 - (1 - min(ending, 1.0)) ** beyond) / ending
    return mean + best.cut * min(more, beyond), mean, mean + best.cut * beyond


def longer_completions(lengths: Sequence[CallLengths], model_id: str, new: Mapping[str, NewCalls]) -> float:
    """How many tokens longer a text of these calls may be than what was measured: it may stand in later prompts."""
    longer = 0.0
    for stage, calls in new.items():
        if calls.calls:
            most = calls.most_completion_tokens / calls.calls
            own = [one.longest for one in lengths if (one.stage, one.model_id) == (stage, model_id)]
            longer += max(0.0, most - max(own, default=0))
    return longer


class Estimates:
    """What calls and trainings cost so far in this home."""

    def __init__(self, lake: Lake, lengths: Sequence[CallLengths]) -> None:
        self._lengths = lengths
        self._accounts = lake.select(_PAID, {})
        self._longer = 0.0

    def tokens(self, model_id: str, new: Mapping[str, NewCalls]) -> Tokens:
        """As `tokens_of`; the stages are given in the order of the graph, as later ones quote earlier ones."""
        self._longer += 2 * longer_completions(self._lengths, model_id, new)  # a judge reads two of them
        return tokens_of(self._lengths, model_id, new, self._longer)

    def seconds(self, table: str, model_id: str, tokens: float) -> float | None:
        """At the rate of this model in this stage; in any stage, where it has not been measured in this one."""
        for accounts in (
            self._accounts.filter(pl.col("table_name") == table, pl.col("model_id") == model_id),
            self._accounts.filter(pl.col("model_id") == model_id),
            self._accounts.filter(pl.col("table_name") == table),
        ):
            if accounts.height:
                return tokens * float(accounts.select(pl.sum("engine_seconds") / pl.sum("tokens")).item())
        return None

    def engine_start_seconds(self) -> float | None:
        """The median time outside its calls of the first stage of a model in a run: in it the engine started."""
        first = self._accounts.unique(["run_id", "model_id"], keep="first", maintain_order=True)
        if not first.height:
            return None
        return float(first.select((pl.col("seconds") - pl.col("engine_seconds")).median()).item())

    def training_seconds(self, home: Home, asset: str) -> float | None:
        """The mean of the checkpoints that are here."""
        found = [read_record(file.parent) for file in records(home, asset)]
        return sum(record.seconds for record in found) / len(found) if found else None
