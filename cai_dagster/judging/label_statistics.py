"""The statistics of judgements and labels, each formula once.

Most formulas are needed in two languages: as a polars expression over a frame of judgements, and as DuckDB's SQL where
a table is too large to be read or polars takes too long to import. They stand side by side; a test holds one to the
other. Names: `logp_a` and `logp_b` are the log probabilities of the label tokens; `order` is 01 where completion_0 was
shown as (A), 10 where it was shown as (B).
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

UNDECIDED = 0.05  # a label this near to one half teaches a reward model next to nothing

P_A = "1 / (1 + exp(logp_b - logp_a))"
"""SQL of P(A) = e^a / (e^a + e^b) (Bai et al. 2022, section 4.1); nan where neither letter is possible."""

P_COMPLETION_0 = f"""CASE "order" WHEN '01' THEN {P_A} ELSE 1 - ({P_A}) END"""
"""SQL of the probability that completion_0 is the better one."""

LABEL_MASS = "exp(logp_a) + exp(logp_b)"
"""SQL of P(A) + P(B): near 0, the model was about to say something else, and its label is noise."""

IS_VERDICT = f"NOT isnan({P_A})"
"""SQL of the judgements in which at least one letter is possible."""

PREFERS_A = "sign(logp_a - logp_b)"
"""SQL of the letter that a judgement names: 1 for A, −1 for B, 0 for neither."""

SAME_LETTER = f"""
    SELECT pair_id, principle_id, abs(sum({PREFERS_A})) = 2 AS same FROM judgements
    GROUP BY pair_id, principle_id HAVING count(*) = 2
"""
"""SQL of position bias: of what was judged in both orders, whether the verdict is the same letter both times.

(Lee et al. 2023, section 2.1.1.)
"""


def p_a() -> "pl.Expr":
    """P(A) = e^a / (e^a + e^b) (Bai et al. 2022, section 4.1); nan where neither letter is possible."""
    import polars as pl

    return 1 / (1 + (pl.col("logp_b") - pl.col("logp_a")).exp())


def p_completion_0() -> "pl.Expr":
    """The probability that completion_0 is the better one: P(A) where it was shown as (A), else 1 − P(A)."""
    import polars as pl

    return pl.when(pl.col("order") == "01").then(p_a()).otherwise(1 - p_a())


def p_completion_0_of(logp_a: float, logp_b: float, order: str) -> float | None:
    """The same of one judgement; None where neither letter is possible."""
    difference = logp_b - logp_a
    if math.isnan(difference):
        return None
    p = 1 / (1 + math.exp(difference)) if difference < math.log(1e300) else 0.0
    return p if order == "01" else 1 - p


def verdicts(judgements: "pl.LazyFrame") -> "pl.LazyFrame":
    """The judgements with `p_0`, P(completion_0 is better), without those in which neither letter is possible."""
    return judgements.filter(p_a().is_not_nan()).with_columns(p_completion_0().alias("p_0"))


def averaged_over_orders(judged: "pl.LazyFrame", *weight: "pl.Expr") -> "pl.LazyFrame":
    """`p_0` of each pair under each principle: the orders averaged in probability (Lee et al. 2023, section 2.1.1)."""
    import polars as pl

    return judged.group_by("pair_id", "principle_id").agg(pl.col("p_0").mean(), *weight)


def label_mass() -> "pl.Expr":
    """P(A) + P(B) of a judgement."""
    import polars as pl

    return pl.col("logp_a").exp() + pl.col("logp_b").exp()


def label_mass_of(logp_a: float, logp_b: float) -> float:
    """P(A) + P(B) of one judgement."""
    return math.exp(logp_a) + math.exp(logp_b)


def same_letter(judgements: "pl.LazyFrame") -> "pl.LazyFrame":
    """Position bias: `pair_id`, `principle_id`, `says_a` and `same` of what was judged in both orders.

    `same`: the verdict is the same letter both times; `says_a`: that letter is A.
    """
    import polars as pl

    prefers_a = (pl.col("logp_a") - pl.col("logp_b")).sign()  # 1, −1, or 0 for neither
    by_order = judgements.group_by("pair_id", "principle_id").agg(
        prefers_a.filter(pl.col("order") == order).first().alias(order) for order in ("01", "10")
    )
    same = (pl.col("01") == pl.col("10")) & (pl.col("01") != 0)
    return by_order.drop_nulls().select(
        "pair_id", "principle_id", (pl.col("01") == 1).alias("says_a"), same.alias("same")
    )


def side(p: str = "p_0") -> "pl.Expr":
    """The side that a probability names: 1 for more than one half, −1 for less, 0 for one half."""
    import polars as pl

    return (pl.col(p) - 0.5).sign()


def win(p: str = "p_0") -> "pl.Expr":
    """1 where a probability is more than one half, 0 where it is less; a tie counts one half."""
    return (side(p) + 1) / 2


def undecided(p: str = "p_0") -> "pl.Expr":
    """Whether a label says next to nothing."""
    import polars as pl

    return (pl.col(p) - 0.5).abs() < UNDECIDED


def orders_agree(judged: "pl.DataFrame", p: str) -> "pl.Series":
    """Order agreement: of each pair and principle judged in both orders, whether both name the same completion."""
    import polars as pl

    orders = judged.group_by("pair_id", "principle_id").agg(pl.len().alias("orders"), side(p).n_unique().alias("sides"))
    return orders.filter(pl.col("orders") == 2)["sides"] == 1


def principles_agree(judged: "pl.DataFrame", p: str) -> "pl.Series":
    """Principle agreement: the chance that two principles name the same completion, of each pair with two or more.

    Of k principles of which n name one side, n(n − 1) of the k(k − 1) ordered pairs agree on it.
    """
    import polars as pl

    principles = judged.group_by("pair_id", "principle_id").agg(pl.col(p).mean())
    counts = principles.group_by("pair_id", side(p).alias("side")).agg(pl.len().alias("n"))
    n, k = pl.col("n"), pl.col("n").sum()
    agreeing = (n * (n - 1)).sum() / (k * (k - 1))
    pairs = counts.group_by("pair_id").agg(k.alias("k"), agreeing.alias("agreeing"))
    return pairs.filter(pl.col("k") >= 2)["agreeing"]
