"""Calibration: the feedback model's labels against people's. Pure functions over tables, no model.

Agreement, proper scores and reliability, position and length bias (Lee et al. 2023, section 2.3 and appendix B), and
the trade-off between noise and bias; docs/calibration.md has every formula. It knows no label policy but the plain
mean, and nothing of how pairs are judged.
"""

# The libraries below are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from cai_dagster.checks.measurement import Tables
from cai_dagster.checks.measurements import label_mass, position_bias
from cai_dagster.evaluation.intervals import mean_interval
from cai_dagster.inputs.pairs import in_hash_order
from cai_dagster.judging.label_policies import p_first
from cai_dagster.judging.label_statistics import orders_agree, principles_agree, win

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

RESAMPLES = 5_000
BINS = 10
HUMANS = "humans"
GATE_SLICE = "one_principle"


@dataclass(frozen=True)
class CalibrationSlice:
    """A row of `judge_calibration`: one slice of the pairs; `tables.JudgeCalibration` says what each number is."""

    slice: str
    slice_value: str
    feedback_model: str
    pairs: int
    agreement: float
    agreement_low: float | None
    agreement_high: float | None
    log_loss: float | None = None
    brier_score: float | None = None
    calibration_error: float | None = None
    position_bias: float | None = None
    longer_preferred: float | None = None
    length_bias: float | None = None
    order_agreement: float | None = None
    principle_agreement: float | None = None
    label_mass: float | None = None
    noise_orders: float | None = None
    noise_principles: float | None = None
    noise_repeats: float | None = None
    noise: float | None = None
    bias: float | None = None

    def to_row(self) -> dict[str, Any]:
        """The columns of `judge_calibration`."""
        return asdict(self)


@dataclass(frozen=True)
class ReliabilityBin:
    """Labels of about the same confidence: its mean, how often humans agree with them, and their share of all."""

    confidence: float
    agreement: float
    share: float


def calibrate(
    judgements: pl.DataFrame, humans: pl.DataFrame, principles: pl.DataFrame, seed: int
) -> list[CalibrationSlice]:
    """Every slice of the judged pairs; none where nothing was judged.

    `judgements` are rows of `calibration_judgements`, `humans` of `human_preferences`, `principles` of `constitution`.
    """
    consensus = _consensus(humans.filter(pl.col("pair_id").is_in(judgements["pair_id"].unique().to_list())))
    judged = judgements.join(consensus.select("pair_id", "category"), on="pair_id")
    if not judged.height:
        return []
    slices = [_slice(kind, "", judged, consensus, seed) for kind in ("all", GATE_SLICE)]
    slices += [
        _slice("category", category, judged.filter(pl.col("category") == category), consensus, seed)
        for category in sorted(judged["category"].drop_nulls().unique())
    ]
    slugs = dict(principles.select("principle_id", "slug").iter_rows())
    names = {principle: slugs.get(principle, principle) for principle in judged["principle_id"].unique()}
    slices += [
        _slice("principle", slug, judged.filter(pl.col("principle_id") == principle), consensus, seed)
        for principle, slug in sorted(names.items(), key=lambda named: named[1])
    ]
    voted = consensus.filter(pl.col("votes") >= 2)
    return [*slices, _human_slice(voted, seed)] if voted.height else slices


def reliability(judgements: pl.DataFrame, humans: pl.DataFrame) -> list[ReliabilityBin]:
    """The labels of all pairs in ten bins of confidence max(p, 1 − p), from one half to 1; empty bins are left out."""
    labels = _p_chosen(judgements, ["pair_id"], _consensus(humans))
    return _bins(labels.with_columns(pl.lit(1.0).alias("weight")))


def _slice(kind: str, name: str, judged: pl.DataFrame, consensus: pl.DataFrame, seed: int) -> CalibrationSlice:
    alone = kind == GATE_SLICE
    labels = _p_chosen(judged, ["pair_id", "principle_id"] if alone else ["pair_id"], consensus)
    labels = labels.with_columns((1 / pl.len().over("pair_id")).alias("weight"))  # every pair counts as one
    agreements = _by_pair(labels.with_columns(_agreement()), "agreement")
    low, high = mean_interval(agreements, RESAMPLES, seed)
    log_loss, brier_score = _proper_scores(labels)
    tables = Tables(judged.lazy())
    by_judgement = _p_chosen(judged, ["pair_id", "principle_id", "order"], consensus)
    noise = _noise(by_judgement)
    known = [part for part in noise.values() if part is not None]
    return CalibrationSlice(
        slice=kind,
        slice_value=name,
        feedback_model=judged["feedback_model"][0],
        pairs=len(agreements),
        agreement=float(agreements.mean()),
        agreement_low=low,
        agreement_high=high,
        log_loss=log_loss,
        brier_score=brier_score,
        calibration_error=sum(one.share * abs(one.confidence - one.agreement) for one in _bins(labels)),
        position_bias=position_bias(tables).value,
        **_length_preference(labels),
        **_self_agreement(by_judgement),
        label_mass=label_mass(tables).value,
        **noise,
        noise=sum(known),
        bias=_bias(by_judgement),
    )


def _human_slice(voted: pl.DataFrame, seed: int) -> CalibrationSlice:
    """People against each other: two different voters of a pair agree, and the variance of one vote."""
    n, chosen = pl.col("votes"), pl.col("votes") * pl.col("y")
    disagreeing = 2 * chosen * (n - chosen) / (n * (n - 1))
    agreements = voted.select((1 - disagreeing).alias("agreement"))["agreement"].to_numpy()
    low, high = mean_interval(agreements, RESAMPLES, seed)
    noise = _mean(voted.select((disagreeing / 2).alias("noise"))["noise"])
    longer = voted.filter(pl.col("chosen_is_longer").is_not_null()).select(_prefers_longer("y").alias("longer"))
    return CalibrationSlice(
        slice=HUMANS,
        slice_value="",
        feedback_model=HUMANS,
        pairs=voted.height,
        agreement=float(agreements.mean()),
        agreement_low=low,
        agreement_high=high,
        longer_preferred=_mean(longer["longer"]),
        length_bias=0.0 if longer.height else None,
        noise=noise,
        bias=0.0,  # their mean is the consensus that bias is measured against
    )


def _consensus(humans: pl.DataFrame) -> pl.DataFrame:
    """What people say of each pair: `y`, the share that prefers `chosen` (1 where they were not counted), and `votes`.

    `chosen_first` says whether `chosen` is completion_0, `chosen_is_longer` is null where both are as long.
    """
    rows: list[dict[str, Any]] = []
    for row in humans.iter_rows(named=True):
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        votes_chosen, votes_rejected = row["votes_chosen"] or 0, row["votes_rejected"] or 0
        votes = votes_chosen + votes_rejected
        rows.append(
            {
                "pair_id": row["pair_id"],
                "category": row["category"],
                "chosen_first": in_hash_order(chosen, rejected)[0] == chosen,
                "chosen_is_longer": None if len(chosen) == len(rejected) else len(chosen) > len(rejected),
                "y": votes_chosen / votes if votes else 1.0,
                "votes": votes or 1,
            }
        )
    types = {"pair_id": pl.String, "category": pl.String, "chosen_first": pl.Boolean, "chosen_is_longer": pl.Boolean}
    return pl.DataFrame(rows, schema={**types, "y": pl.Float64, "votes": pl.Int64})


def _p_chosen(judgements: pl.DataFrame, unit: list[str], consensus: pl.DataFrame) -> pl.DataFrame:
    """`p`: the probability of the completion that people chose, as the label of each unit, with the consensus."""
    one = pl.concat_str(unit, separator="/").alias("unit")
    units = judgements.with_columns(one)
    p_0 = p_first(units.with_columns(pl.col("unit").alias("pair_id"))).rename({"pair_id": "unit"})
    p = pl.when("chosen_first").then(pl.col("p_0")).otherwise(1 - pl.col("p_0")).alias("p")
    return (
        units.select("unit", *unit)
        .unique()
        .join(p_0, on="unit")
        .join(consensus, on="pair_id")
        .with_columns(p)
        .sort(unit)
    )


def _agreement(p: str = "p") -> pl.Expr:
    """The chance to name what a person names: a label of one half names either."""
    y = pl.col("y")
    verdict = pl.when(pl.col(p) > 0.5).then(y).when(pl.col(p) < 0.5).then(1 - y).otherwise(0.5)
    return verdict.alias("agreement")


def _by_pair(labels: pl.DataFrame, column: str) -> "Numbers":
    """The weighted sum of a column for each pair."""
    weighted = (pl.col(column) * pl.col("weight")).sum().alias(column)
    return labels.group_by("pair_id").agg(weighted).sort("pair_id")[column].to_numpy()


def _proper_scores(labels: pl.DataFrame) -> tuple[float, float]:
    """Log loss and Brier score of p against a person's verdict, each of a pair's verdicts counting by its share."""
    import numpy as np
    from sklearn.metrics import brier_score_loss, log_loss

    p, y, weight = (labels[column].to_numpy() for column in ("p", "y", "weight"))
    verdict = np.repeat([1, 0], len(p))
    weights = np.concatenate([weight * y, weight * (1 - y)])
    twice = np.concatenate([p, p])
    return (
        float(log_loss(verdict, twice, sample_weight=weights, labels=[0, 1])),
        float(brier_score_loss(verdict, twice, sample_weight=weights, labels=[0, 1])),
    )


def _bins(labels: pl.DataFrame) -> list[ReliabilityBin]:
    confidence = pl.max_horizontal("p", 1 - pl.col("p"))
    number = ((confidence - 0.5) * 2 * BINS).floor().clip(0, BINS - 1).alias("bin")
    share = pl.col("weight").sum()
    binned = (
        labels.with_columns(_agreement(), confidence.alias("confidence"), number)
        .group_by("bin")
        .agg(*((pl.col(one) * pl.col("weight")).sum() / share for one in ("confidence", "agreement")), share)
        .sort("bin")
    )
    total = float(binned["weight"].sum())
    return [ReliabilityBin(row["confidence"], row["agreement"], row["weight"] / total) for row in binned.to_dicts()]


def _prefers_longer(share: str) -> pl.Expr:
    return pl.when("chosen_is_longer").then(pl.col(share)).otherwise(1 - pl.col(share))


def _length_preference(labels: pl.DataFrame) -> dict[str, float | None]:
    """How often the judge names the longer completion, and how much more often than people do."""
    unequal = labels.filter(pl.col("chosen_is_longer").is_not_null()).with_columns(win("p").alias("verdict"))
    longer = unequal.select(
        (_prefers_longer("verdict") * pl.col("weight")).alias("judge"),
        (_prefers_longer("y") * pl.col("weight")).alias("people"),
        "weight",
    ).sum()
    if not unequal.height:
        return {"longer_preferred": None, "length_bias": None}
    judge, people, weight = longer.row(0)
    return {"longer_preferred": judge / weight, "length_bias": (judge - people) / weight}


def _self_agreement(by_judgement: pl.DataFrame) -> dict[str, float | None]:
    """The judge against itself: over the two orders of a principle, and over the principles of a pair."""
    return {
        "order_agreement": _mean(orders_agree(by_judgement, "p")),
        "principle_agreement": _mean(principles_agree(by_judgement, "p")),
    }


def _noise(by_judgement: pl.DataFrame) -> dict[str, float | None]:
    """The variance of one verdict, in its parts (law of total variance), each the mean over pairs.

    There are two orders and no more; principles are a sample, so their variance is the unbiased one.
    """
    p = pl.col("p")
    orders = by_judgement.group_by("pair_id", "principle_id").agg(pl.len().alias("k"), p.var(ddof=0).alias("noise"))
    principles = _principles(by_judgement)
    repeats = by_judgement.group_by("pair_id").agg((p * (1 - p)).mean().alias("noise"))
    swapped = orders.filter(pl.col("k") == 2).group_by("pair_id").agg(pl.col("noise").mean())
    return {
        "noise_orders": _mean(swapped["noise"]),
        "noise_principles": _mean(principles.filter(pl.col("k") >= 2)["variance"]),
        "noise_repeats": _mean(repeats["noise"]),
    }


def _bias(by_judgement: pl.DataFrame) -> float | None:
    """Mean over pairs of (p̄ − y)², less what chance adds to it: too few principles in p̄, too few votes in y."""
    sampling = pl.when(pl.col("k") >= 2).then(pl.col("variance") / pl.col("k")).otherwise(0.0)
    voting = pl.when(pl.col("votes") >= 2).then(pl.col("y") * (1 - pl.col("y")) / (pl.col("votes") - 1)).otherwise(0.0)
    squared = (pl.col("p") - pl.col("y")) ** 2
    return _mean(_principles(by_judgement).select((squared - sampling - voting).alias("bias"))["bias"])


def _principles(by_judgement: pl.DataFrame) -> pl.DataFrame:
    """For each pair: the mean `p` over its `k` principles, their `variance`, and the consensus."""
    p = pl.col("p")
    return (
        by_judgement.group_by("pair_id", "principle_id")
        .agg(p.mean(), pl.col("y", "votes").first())
        .group_by("pair_id")
        .agg(p.mean(), pl.len().alias("k"), p.var(ddof=1).alias("variance"), pl.col("y", "votes").first())
        .sort("pair_id")
    )


def _mean(values: pl.Series | Sequence[float]) -> float | None:
    numbers = pl.Series(values)
    return float(numbers.sum()) / len(numbers) if len(numbers) else None
