"""Distributions on a report: P(A), P(chosen) and rewards, counted by DuckDB in bins of equal width."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cai_dagster.judging.label_statistics import IS_VERDICT, P_A
from cai_dagster.report.tables import ReportTables, Row

BINS = 20
ORDERS = {"01": "completion_0 as (A)", "10": "completion_1 as (A)"}


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of the same width from `low` to `high`, by series."""

    low: float
    high: float
    counts: Mapping[str, Sequence[int]]

    @property
    def edges(self) -> list[float]:
        """Where each bin begins, and the end of the last."""
        bins = max(map(len, self.counts.values()))
        return [self.low + (self.high - self.low) * number / bins for number in range(bins + 1)]


def p_a_histogram(tables: ReportTables) -> Histogram | None:
    """P(A) of the judgements, by order."""
    query = f"""
        SELECT "order" AS series, {_bin("p", 0, 1)} AS bin, count(*) AS n
        FROM (SELECT "order", {P_A} AS p FROM judgements WHERE {IS_VERDICT}) GROUP BY ALL
    """
    return _histogram(tables.rows(query, "judgements"), 0, 1, ORDERS)


def p_chosen_histogram(tables: ReportTables) -> Histogram | None:
    """P(chosen) of the preference pairs."""
    query = (
        f"SELECT 'pairs' AS series, {_bin('p_chosen', 0.5, 1)} AS bin, count(*) AS n FROM preference_pairs GROUP BY ALL"
    )
    return _histogram(tables.rows(query, "preference_pairs"), 0.5, 1, {"pairs": "pairs"})


def reward_histogram(tables: ReportTables) -> Histogram | None:
    """Rewards of the held-out pairs; None where none was evaluated."""
    query = """
        SELECT reward_low, reward_high, chosen_rewards, rejected_rewards FROM reward_model_evaluation
        WHERE slice = 'all' AND chosen_rewards IS NOT NULL
    """
    for row in tables.rows(query, "reward_model_evaluation"):
        counts = {"chosen": row["chosen_rewards"], "rejected": row["rejected_rewards"]}
        return Histogram(row["reward_low"], row["reward_high"], counts)
    return None


def picked_reward_histogram(tables: ReportTables) -> Histogram | None:
    """Rewards of the completions that best-of-n picked, and of a random pick."""
    if not tables.have("best_of_n"):
        return None
    finite = "SELECT reward, mean_reward FROM best_of_n WHERE isfinite(reward) AND isfinite(mean_reward)"
    (ends,) = tables.rows(f"SELECT min(mean_reward) AS low, max(reward) AS high FROM ({finite})", "best_of_n")
    if ends["low"] is None:
        return None
    low, high = (ends["low"], ends["high"]) if ends["low"] < ends["high"] else (ends["low"] - 0.5, ends["low"] + 0.5)
    query = f"""
        SELECT series, {_bin("value", low, high)} AS bin, count(*) AS n
        FROM (UNPIVOT ({finite}) ON reward, mean_reward INTO NAME series VALUE value) GROUP BY ALL
    """
    series = {"reward": "the one picked", "mean_reward": "mean of its candidates"}
    return _histogram(tables.rows(query, "best_of_n"), low, high, series)


def _bin(value: str, low: float, high: float) -> str:
    """SQL for the number of the bin; what lies on an end belongs to the bin beside it."""
    return f"greatest(0, least({BINS - 1}, floor(({value} - ({low})) / ({high - low}) * {BINS})))::INTEGER"


def _histogram(counted: Sequence[Row], low: float, high: float, series: Mapping[str, str]) -> Histogram | None:
    if not counted:
        return None
    counts = {name: [0] * BINS for key, name in series.items() if any(row["series"] == key for row in counted)}
    for row in counted:
        counts[series[row["series"]]][row["bin"]] = row["n"]
    return Histogram(low, high, counts)
