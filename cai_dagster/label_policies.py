"""Label policies: from judgements (evidence) to P(chosen). Pure functions over tables, no model, no GPU.

P(A) = e^a / (e^a + e^b) of the two label tokens' log probabilities; the orders of one principle are averaged in
probability, then the principles (Bai et al. 2022, section 4.1; Lee et al. 2023, section 2.1.1).
"""

import polars as pl

from cai_dagster.settings import LabelPolicy, PreferencePairsSettings

_DECIMALS = 12


def p_first(judgements: pl.DataFrame) -> pl.DataFrame:
    """`pair_id`, `p_0`: the probability that completion_0 is the better one, for each pair that was judged.

    Each principle counts once, whether judged in one order or in both.
    """
    p_a = 1 / (1 + (pl.col("logp_b") - pl.col("logp_a")).exp())
    return (
        judgements.filter(p_a.is_not_nan())  # neither letter is possible: no verdict
        .with_columns(pl.when(pl.col("order") == "01").then(p_a).otherwise(1 - p_a).alias("p_0"))
        .group_by("pair_id", "principle_id")
        .agg(pl.col("p_0").mean())
        .group_by("pair_id")
        .agg(pl.col("p_0").sort().mean().round(_DECIMALS))  # sorted and rounded: order and rounding decide nothing
        .sort("pair_id")
    )


def label_pairs(pairs: pl.DataFrame, judgements: pl.DataFrame, settings: PreferencePairsSettings) -> pl.DataFrame:
    """The preference pairs of a policy: `pairs` with `chosen`, `rejected` (texts), `p_chosen` and `label_policy`.

    A pair without a judgement, a tie (p = 1/2) and a pair of equal texts give no preference pair.
    """
    first = pl.col("p_0") > 0.5
    soft = pl.max_horizontal("p_0", 1 - pl.col("p_0"))
    return (
        pairs.join(p_first(judgements), on="pair_id", how="inner", maintain_order="left")
        .filter(pl.col("p_0") != 0.5, pl.col("completion_0") != pl.col("completion_1"))
        .with_columns(
            pl.when(first).then("completion_0").otherwise("completion_1").alias("chosen"),
            pl.when(first).then("completion_1").otherwise("completion_0").alias("rejected"),
            (pl.lit(1.0) if settings.label_policy == LabelPolicy.hard else soft).alias("p_chosen"),
            pl.lit(settings.label_policy.value).alias("label_policy"),
        )
        .drop("p_0")
    )


def disregarded(pairs: pl.DataFrame, judgements: pl.DataFrame) -> dict[str, int]:
    """How many pairs give no preference pair, by reason."""
    judged = pairs.join(p_first(judgements), on="pair_id", how="left")
    identical = pl.col("completion_0") == pl.col("completion_1")
    return {
        "not judged": judged.filter(pl.col("p_0").is_null()).height,
        "identical texts": judged.filter(pl.col("p_0").is_not_null(), identical).height,
        "ties": judged.filter(pl.col("p_0") == 0.5, ~identical).height,
    }


def preference_rows(labelled: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """Labelled pairs with their prompts, in TRL's conversational preference format."""

    def turn(column: str) -> pl.Expr:
        answer = pl.struct(pl.lit("assistant").alias("role"), pl.col(column).alias("content"))
        return pl.concat_list(answer).alias(column)

    prompt = prompts.select("prompt_id", "split", pl.col("messages").alias("prompt"))
    return labelled.join(prompt, on="prompt_id").with_columns(turn("chosen"), turn("rejected"))
