"""Label policies: from judgements (evidence) to P(chosen). Pure functions over tables, no model, no GPU.

The orders of one principle are averaged in probability, then the principles (Bai et al. 2022, section 4.1; Lee et al.
2023, section 2.1.1); the formulas are in `label_statistics`. Frames are lazy: a policy is a query over `judgements`, so
another policy is another query and no other evidence.
"""

import polars as pl

from cai_dagster.judging.label_statistics import averaged_over_orders, side, verdicts
from cai_dagster.judging.settings import JudgingMethod, LabelPolicy, PreferencePairsSettings, PrincipleEnsemble

SOFT_MEAN = PreferencePairsSettings(label_policy=LabelPolicy.soft, ensemble=PrincipleEnsemble.mean, clamp_at=1)

_DECIMALS = 12
REASONS = ("not judged", "identical texts", "ties", "no agreement between the orders")
"""Why a pair gives no preference pair."""

_ORDERLESS = (JudgingMethod.scoring.value, JudgingMethod.direct.value)


def policy_text(settings: PreferencePairsSettings) -> str:
    """The policy and its parameters, such as `soft/mean` or `clamped(0.4,0.6)/dominant`."""
    policy = settings.label_policy.value
    if settings.label_policy == LabelPolicy.clamped:
        policy += f"({1 - settings.clamp_at:g},{settings.clamp_at:g})"
    return f"{policy}/{settings.ensemble.value}"


def p_first(judgements: pl.DataFrame) -> pl.DataFrame:
    """`pair_id`, `p_0` of each pair that was judged: the probability that completion_0 is the better one, soft/mean.

    Each principle counts once, whether judged in one order or in both.
    """
    return p_first_under(judgements.lazy(), SOFT_MEAN).collect()


def p_first_under(judgements: pl.LazyFrame, settings: PreferencePairsSettings) -> pl.LazyFrame:
    """`pair_id`, `p_0` under a policy, sorted by pair; a pair of which the policy leaves no judgement is absent."""
    judged = verdicts(judgements)
    if settings.label_policy == LabelPolicy.clamped:
        judged = _clamped(judged, settings.clamp_at)
    if settings.label_policy == LabelPolicy.agreement_only:
        judged = _agreeing(judged)
    weight = [pl.col("principle_weight").first()] if settings.ensemble == PrincipleEnsemble.weights else []
    principles = averaged_over_orders(judged, *weight)
    # Sorted and rounded: the order of the rows and the rounding of floats decide nothing.
    return (
        principles.sort("p_0", *(["principle_weight"] if weight else []))
        .group_by("pair_id", maintain_order=True)
        .agg(_ensemble(settings.ensemble).round(_DECIMALS))
        .sort("pair_id")
    )


def label_pairs(pairs: pl.LazyFrame, judgements: pl.LazyFrame, settings: PreferencePairsSettings) -> pl.LazyFrame:
    """The preference pairs of a policy: `pairs` with `chosen`, `rejected` (texts), `p_chosen` and `label_policy`.

    A pair without a judgement, a tie (p = 1/2) and a pair of equal texts give no preference pair.
    """
    first = pl.col("p_0") > 0.5
    soft = pl.max_horizontal("p_0", 1 - pl.col("p_0"))
    return (
        _outcomes(pairs, judgements, settings)
        .filter(pl.col("reason").is_null())
        .with_columns(
            pl.when(first).then("completion_0").otherwise("completion_1").alias("chosen"),
            pl.when(first).then("completion_1").otherwise("completion_0").alias("rejected"),
            (pl.lit(1.0) if settings.label_policy == LabelPolicy.hard else soft).alias("p_chosen"),
            pl.lit(policy_text(settings)).alias("label_policy"),
        )
        .drop("p_0", "reason")
    )


def disregarded(pairs: pl.LazyFrame, judgements: pl.LazyFrame, settings: PreferencePairsSettings) -> dict[str, int]:
    """How many pairs give no preference pair, by reason."""
    outcomes = _outcomes(pairs, judgements, settings).filter(pl.col("reason").is_not_null())
    counted = outcomes.group_by("reason").len().collect()
    return dict.fromkeys(REASONS, 0) | dict(counted.iter_rows())


def preference_rows(labelled: pl.LazyFrame, prompts: pl.LazyFrame) -> pl.LazyFrame:
    """Labelled pairs with their prompts, in TRL's conversational preference format."""

    def turn(column: str) -> pl.Expr:
        answer = pl.struct(pl.lit("assistant").alias("role"), pl.col(column).alias("content"))
        return pl.concat_list(answer).alias(column)

    prompt = prompts.select("prompt_id", "split", pl.col("messages").alias("prompt"))
    return labelled.join(prompt, on="prompt_id").with_columns(turn("chosen"), turn("rejected"))


def _clamped(judged: pl.LazyFrame, clamp_at: float) -> pl.LazyFrame:
    """Labels that follow a rationale between 1 − clamp_at and clamp_at; the others as they are.

    (Bai et al. 2022, section 4.1: their chain of thought makes P(A) nearly 0 or 1.)
    """
    clamped = pl.col("p_0").clip(1 - clamp_at, clamp_at)
    return judged.with_columns(pl.when(pl.col("rationale").is_not_null()).then(clamped).otherwise("p_0").alias("p_0"))


def _agreeing(judged: pl.LazyFrame) -> pl.LazyFrame:
    """The verdicts of principles that prefer the same completion in both orders, and those that know no order."""
    agree = (pl.len() == 2) & (side().sum().abs() == 2)
    orderless = pl.col("method").first().is_in(_ORDERLESS)
    kept = judged.group_by("pair_id", "principle_id").agg((agree | orderless).alias("agree"))
    return judged.join(kept.filter("agree"), on=["pair_id", "principle_id"], how="semi")


def _ensemble(ensemble: PrincipleEnsemble) -> pl.Expr:
    """One probability of those of a pair's principles, which come sorted."""
    p = pl.col("p_0")
    match ensemble:
        case PrincipleEnsemble.mean:
            return p.mean()
        case PrincipleEnsemble.weights:
            weight = pl.col("principle_weight")
            return (p * weight).sum() / weight.sum()
        case PrincipleEnsemble.dominant:  # two that are as sure of either side are a tie
            certainty = (p - 0.5).abs().round(_DECIMALS)
            return p.filter(certainty == certainty.max()).mean()


def _outcomes(pairs: pl.LazyFrame, judgements: pl.LazyFrame, settings: PreferencePairsSettings) -> pl.LazyFrame:
    """Every pair with its `p_0`, and with the `reason` why it gives no preference pair (null where it does)."""
    judged = verdicts(judgements).select("pair_id").unique().with_columns(pl.lit(value=True).alias("judged"))
    labelled = p_first_under(judgements, settings)
    reasons = (
        pl.when(pl.col("completion_0") == pl.col("completion_1")).then(pl.lit("identical texts"))
        .when(pl.col("judged").is_null()).then(pl.lit("not judged"))
        .when(pl.col("p_0").is_null()).then(pl.lit("no agreement between the orders"))
        .when(pl.col("p_0") == 0.5).then(pl.lit("ties"))
    )  # fmt: skip
    return (
        pairs.join(labelled, on="pair_id", how="left", maintain_order="left")
        .join(judged, on="pair_id", how="left", maintain_order="left")
        .with_columns(reasons.alias("reason"))
        .drop("judged")
    )
