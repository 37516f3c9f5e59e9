"""Win rates, reward models and policies of two versions side by side."""

# scikit-learn is typed in part only.
# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from cai_dagster.compare.settings import ConstitutionDiffSettings
from cai_dagster.compare.version import Row, VersionTables, measured_rows
from cai_dagster.evaluation.intervals import mean_interval
from cai_dagster.judging.label_policies import p_first
from cai_dagster.judging.label_statistics import win

_ALL = "all"
_SLICES = (_ALL, "principle", "labelled_by", "benchmark")


@dataclass(frozen=True)
class WinRate:
    """How often the later version's final revision is preferred to the earlier one's, where they differ.

    Under the principles of one version. A tie counts one half; the interval is a bootstrap over prompts. `mirrored`:
    the judgements were made for the earlier version against the later one, and this is the other side of them.
    """

    judged_by: str
    pairs: int
    prompts: int
    win_rate: float
    low: float | None
    high: float | None
    p_better: float
    mirrored: bool = False


@dataclass(frozen=True)
class RewardModelScore:
    """A reward model on one slice of pairs; see `tables.RewardModelEvaluation` for each number."""

    pairs: int
    accuracy: float
    low: float | None
    high: float | None
    log_loss: float
    calibration_error: float
    length_correlation: float | None


@dataclass(frozen=True)
class RewardModelChange:
    """The reward models of both versions on `slice`: all, or a kind and its value, such as principle/crisis-care."""

    slice: str
    before: RewardModelScore | None
    after: RewardModelScore | None


@dataclass(frozen=True)
class PolicyWinRate:
    """How often a policy wins against all others of its version, under that version's principles."""

    prompts: int
    win_rate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PolicyChange:
    """A policy in both versions; None where it has not been evaluated."""

    policy: str
    before: PolicyWinRate | None
    after: PolicyWinRate | None


def win_rates(
    before: VersionTables,
    after: VersionTables,
    revision_pairs: Sequence[pl.DataFrame],
    settings: ConstitutionDiffSettings,
) -> list[WinRate]:
    """Under each version's principles; none where the revisions of these two versions have not been judged.

    `revision_pairs` are the ids of their final revisions that differ (`labels.revision_pairs`). Which of them was
    judged against the other does not matter. Judgements of revisions that have been replaced since do not count.
    """
    if not revision_pairs:
        return []
    ids = pl.concat(revision_pairs)
    rates = _judged_win_rates(before, after, ids["pair_id"], settings)
    return rates or [_mirrored(one) for one in reversed(_judged_win_rates(after, before, ids["mirrored_id"], settings))]


def reward_model_changes(before: VersionTables, after: VersionTables) -> list[RewardModelChange]:
    """All held-out pairs, where either version has a reward model; then the slices that both were measured on."""
    old, new = (
        {
            _slice(row): RewardModelScore(
                row["pairs"],
                row["accuracy"],
                row["accuracy_low"],
                row["accuracy_high"],
                row["log_loss"],
                row["calibration_error"],
                row["length_correlation"],
            )
            for row in measured_rows(version, "reward_model_evaluation")
            if (row["slice"] or _ALL) in _SLICES
        }
        for version in (before, after)
    )
    shown = [name for name in {**old, **new} if name == _ALL or (name in old and name in new)]
    return [
        RewardModelChange(name, old.get(name), new.get(name)) for name in sorted(shown, key=lambda n: (n != _ALL, n))
    ]


def policy_changes(before: VersionTables, after: VersionTables) -> list[PolicyChange]:
    """Every policy that was evaluated in either version."""
    old, new = (
        {
            row["policy"]: PolicyWinRate(row["prompts"], row["win_rate"], row["win_rate_low"], row["win_rate_high"])
            for row in measured_rows(version, "policy_evaluation")
            if row["opponent"] == _ALL
        }
        for version in (before, after)
    )
    return [PolicyChange(policy, old.get(policy), new.get(policy)) for policy in sorted({*old, *new})]


def _judged_win_rates(
    before: VersionTables, after: VersionTables, pair_ids: pl.Series, settings: ConstitutionDiffSettings
) -> list[WinRate]:
    """The win rates of `after` where it was judged against `before`."""
    judged = after.tables.get("version_judgements")
    if judged is None:
        return []
    as_now = pair_ids.alias("pair_id").to_frame()
    judged = judged.filter(pl.col("against") == before.version).join(as_now, on="pair_id", how="semi")
    unit = pl.concat_str("judged_by", "prompt_id", "sample", separator="/").alias("pair_id")
    units = judged.with_columns(unit)
    better = (
        units.select("pair_id", "judged_by", "prompt_id")
        .unique()
        .join(p_first(units), on="pair_id")
        .with_columns((1 - pl.col("p_0")).alias("p_better"))
        .with_columns(win("p_better").alias("win"))
        .sort("pair_id")
    )
    rates: list[WinRate] = []
    for version in (before.version, after.version):
        own = better.filter(pl.col("judged_by") == version)
        if not own.height:
            continue
        wins, clusters = own["win"].to_numpy(), own["prompt_id"].to_list()
        low, high = mean_interval(wins, settings.resamples, settings.sample_seed, clusters, settings.confidence)
        rates.append(
            WinRate(
                version,
                pairs=own.height,
                prompts=len(set(clusters)),
                win_rate=float(np.mean(wins)),
                low=low,
                high=high,
                p_better=float(np.mean(own["p_better"].to_numpy())),
            )
        )
    return rates


def _mirrored(rate: WinRate) -> WinRate:
    """The other side's: what is no win of the one is a win of the other, and a tie is half of one for both."""
    low, high = (None if end is None else 1 - end for end in (rate.high, rate.low))
    win_rate, p_better = 1 - rate.win_rate, 1 - rate.p_better
    return replace(rate, win_rate=win_rate, low=low, high=high, p_better=p_better, mirrored=True)


def _slice(row: Row) -> str:
    """`all`, or `principle/crisis-care`."""
    kind, value = row["slice"], row["slice_value"]
    return kind if kind == _ALL else f"{kind}/{value}"
