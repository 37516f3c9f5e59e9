"""Policies measured: who wins against whom under the feedback model, and the reward, length and refusals of each.

A prompt is won by the policy whose answer has P(better) > 1/2, averaged over both orders and all principles; equal
probabilities and equal texts are a tie and count one half. Intervals are percentile bootstraps over prompts: the
answers of one prompt stay together (Efron and Tibshirani 1993, chapter 13). It knows no model and no table store.
"""

# scipy is typed in part only.
# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from cai_dagster.checks.refusals import is_refusal
from cai_dagster.evaluation.intervals import Interval, mean_interval
from cai_dagster.evaluation.settings import PolicyEvaluationSettings
from cai_dagster.judging.label_policies import p_first
from cai_dagster.judging.label_statistics import win
from cai_dagster.pages.plots import interval_plot

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL = "all"


@dataclass(frozen=True)
class PolicyScore:
    """A row of `policy_evaluation`; see `tables.PolicyEvaluation` for each number."""

    policy: str
    opponent: str
    prompts: int
    win_rate: float
    win_rate_low: float | None
    win_rate_high: float | None
    p_better: float
    identical: float
    mean_reward: float | None = None
    mean_reward_low: float | None = None
    mean_reward_high: float | None = None
    mean_length: float | None = None
    refusal_rate: float | None = None

    def to_row(self) -> dict[str, str | int | float | None]:
        """The columns of `policy_evaluation`."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """What is kept of answers when their texts have been read.

    `answers`: `policy`, `prompt_id`, `reward`, `length` (characters), `refusal`. `compared`: as `compare` makes it.
    """

    answers: pl.DataFrame
    compared: pl.DataFrame

    @classmethod
    def of(cls, responses: pl.DataFrame, judgements: pl.DataFrame) -> "Measured":
        """Of responses with a `reward`, and the judgements of the same prompts."""
        refusals = [is_refusal(text) for text in responses["completion"]]
        answers = responses.select(
            *("policy", "prompt_id", "reward"),
            pl.col("completion").str.len_chars().alias("length"),
            pl.Series("refusal", refusals, dtype=pl.Boolean),
        )
        return cls(answers, compare(responses, judgements))

    @classmethod
    def together(cls, parts: "Sequence[Measured]") -> "Measured":
        """Several parts as one, in the order of policies and prompts."""
        return cls(
            pl.concat([part.answers for part in parts]).sort("policy", "prompt_id"),
            pl.concat([part.compared for part in parts]).sort("policy_0", "policy_1", "prompt_id"),
        )


def evaluate_policies(parts: Sequence[Measured], settings: PolicyEvaluationSettings) -> list[PolicyScore]:
    """Each policy against every other and against all of them."""
    if not parts:
        return []
    measured = Measured.together(parts)
    duels = both_ways(measured.compared)
    scores: list[PolicyScore] = []
    for policy in sorted(set(duels["policy"])):
        own = duels.filter(pl.col("policy") == policy)
        answers = measured.answers.filter(pl.col("policy") == policy)
        reward_low, reward_high = _interval(answers["reward"].to_numpy(), settings)
        against_all = _score(policy, ALL, own, settings)
        alone = {
            "mean_reward": float(np.mean(answers["reward"].to_numpy())),
            "mean_reward_low": reward_low,
            "mean_reward_high": reward_high,
            "mean_length": float(np.mean(answers["length"].to_numpy())),
            "refusal_rate": float(np.mean(answers["refusal"].to_numpy())),
        }
        scores.append(PolicyScore(**{**against_all.to_row(), **alone}))  # pyright: ignore[reportArgumentType]
        for opponent in sorted(set(own["opponent"])):
            scores.append(_score(policy, opponent, own.filter(pl.col("opponent") == opponent), settings))  # noqa: PERF401
    return scores


def compare(responses: pl.DataFrame, judgements: pl.DataFrame) -> pl.DataFrame:
    """`policy_0`, `policy_1`, `prompt_id`, `p_0`, `identical`: each two policies on each prompt that can be compared.

    A comparison without a judgement is missing, never one half; equal texts are a tie without being judged.
    """
    answers = responses.select("policy", "prompt_id", "completion")
    couples = answers.join(answers, on="prompt_id", suffix="_1").filter(pl.col("policy") < pl.col("policy_1"))
    judged = judgements.select("policy_0", "policy_1", "prompt_id", "pair_id").unique()
    return (
        couples.rename({"policy": "policy_0"})
        .join(judged, on=["policy_0", "policy_1", "prompt_id"], how="left")
        .join(p_first(judgements), on="pair_id", how="left")
        .with_columns((pl.col("completion") == pl.col("completion_1")).alias("identical"))
        .with_columns(pl.when("identical").then(0.5).otherwise("p_0").alias("p_0"))
        .filter(pl.col("p_0").is_not_null())
        .select("policy_0", "policy_1", "prompt_id", "p_0", "identical")
        .sort("policy_0", "policy_1", "prompt_id")
    )


def both_ways(compared: pl.DataFrame) -> pl.DataFrame:
    """`policy`, `opponent`, `prompt_id`, `p_better`, `win` (1, 1/2 or 0), `identical`: each comparison twice."""
    one = compared.select(
        pl.col("policy_0").alias("policy"),
        pl.col("policy_1").alias("opponent"),
        "prompt_id",
        pl.col("p_0").alias("p_better"),
        "identical",
    )
    other = one.select(
        pl.col("opponent").alias("policy"),
        pl.col("policy").alias("opponent"),
        "prompt_id",
        (1 - pl.col("p_better")).alias("p_better"),
        "identical",
    )
    won = win("p_better")
    return pl.concat([one, other]).with_columns(won.alias("win"))


def markdown_table(scores: Sequence[PolicyScore]) -> str:
    """The policies beside each other, best first, and who beats whom."""
    overall = sorted((score for score in scores if score.opponent == ALL), key=lambda score: -score.win_rate)
    lines = [
        "| policy | prompts | win rate against the others | mean reward | characters | refusals |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {score.policy} | {score.prompts} | {_rate(score)} | {_reward(score)} | {score.mean_length:.0f} | "
        f"{score.refusal_rate:.1%} |"
        for score in overall
    ]
    names = [score.policy for score in overall]
    between = {(score.policy, score.opponent): score for score in scores}
    lines += ["", f"| row wins against column | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for policy in names:
        cells = [_rate(between[policy, other]) if (policy, other) in between else "–" for other in names]
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def win_rate_plot(scores: Sequence[PolicyScore]) -> str:
    """A markdown image of the win rates against all others, best first."""
    overall = sorted((score for score in scores if score.opponent == ALL), key=lambda score: -score.win_rate)
    rates = [score.win_rate for score in overall]
    intervals = [
        (
            score.win_rate if score.win_rate_low is None else score.win_rate_low,
            score.win_rate if score.win_rate_high is None else score.win_rate_high,
        )
        for score in overall
    ]
    return interval_plot([score.policy for score in overall], rates, intervals, "win rate against all others", "policy")


def _score(policy: str, opponent: str, duels: pl.DataFrame, settings: PolicyEvaluationSettings) -> PolicyScore:
    """Prompts count equally, however many opponents answered them."""
    prompts = duels.group_by("prompt_id").agg(pl.col("win", "p_better", "identical").mean()).sort("prompt_id")
    wins = prompts["win"].to_numpy()
    low, high = _interval(wins, settings)
    return PolicyScore(
        policy=policy,
        opponent=opponent,
        prompts=prompts.height,
        win_rate=float(np.mean(wins)),
        win_rate_low=low,
        win_rate_high=high,
        p_better=float(np.mean(prompts["p_better"].to_numpy())),
        identical=float(np.mean(prompts["identical"].to_numpy())),
    )


def _rate(score: PolicyScore) -> str:
    if score.win_rate_low is None or score.win_rate_high is None:
        return f"{score.win_rate:.0%}"
    return f"{score.win_rate:.0%} ({score.win_rate_low:.0%}–{score.win_rate_high:.0%})"


def _reward(score: PolicyScore) -> str:
    if score.mean_reward_low is None or score.mean_reward_high is None:
        return f"{score.mean_reward:.3f}"
    return f"{score.mean_reward:.3f} ({score.mean_reward_low:.3f}–{score.mean_reward_high:.3f})"


def _interval(values: "NDArray[np.float64]", settings: PolicyEvaluationSettings) -> Interval:
    return mean_interval(values, settings.resamples, settings.seed, confidence=settings.confidence)
