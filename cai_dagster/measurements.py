"""What the checks measure: one number over one table of one constitution version, and rows that show it.

Each function has the name of its check in `checks`. It knows no bounds and no Dagster.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from cai_dagster.prompts import FORGOTTEN

EXPECTED_DRAWS = 5
EXAMPLES = 5


@dataclass(frozen=True)
class Measurement:
    """The measured value (None: there is nothing to measure it on) and rows that show it."""

    value: float | None
    rows: int
    examples: list[dict[str, Any]]


@dataclass(frozen=True)
class Tables:
    """What checks look at: the rows of one table and version, its rejected rows, and the version's principles."""

    rows: pl.DataFrame
    rejected: pl.DataFrame
    principles: pl.DataFrame


def rejected_share(tables: Tables) -> Measurement:
    """Rejected rows of all rows; a forgotten prompt is none of them."""
    refused = tables.rejected.filter(~pl.col("reason").str.starts_with(f"{FORGOTTEN}:"))
    rejected, kept = refused.height, tables.rows.height
    examples = refused.head(EXAMPLES).select("row_id", "reason").to_dicts()
    return Measurement(rejected / max(1, rejected + kept), rejected + kept, examples)


def unfinished_completions(tables: Tables) -> Measurement:
    """Completions that were cut at max_tokens, of all completions in the table."""
    columns = [name for name in tables.rows.columns if "finish_reason" in name]
    cut = pl.sum_horizontal(pl.col(column) == "length" for column in columns)
    unfinished = tables.rows.filter(cut > 0)
    share = _share(tables.rows.select(cut.sum()).item(), tables.rows.height * len(columns))
    return Measurement(share, tables.rows.height, _examples(unfinished))


def unchanged_revisions(tables: Tables) -> Measurement:
    """Revisions that are, but for white space at the ends, the response they should have revised."""
    unchanged = tables.rows.filter(pl.col("revision").str.strip_chars() == pl.col("response").str.strip_chars())
    return Measurement(_share(unchanged.height, tables.rows.height), tables.rows.height, _examples(unchanged))


def label_mass(tables: Tables) -> Measurement:
    """Mean of P(A) + P(B). Far below 1, the model was about to say something else, and its labels are noise."""
    mass = tables.rows.with_columns((pl.col("logp_a").exp() + pl.col("logp_b").exp()).alias("mass"))
    columns = ["pair_id", "principle_id", "order", "mass"]
    examples = mass.sort("mass").head(EXAMPLES).select(columns).to_dicts()
    return Measurement(_mean(mass["mass"]), mass.height, examples)


def position_bias(tables: Tables) -> Measurement:
    """Pairs and principles judged in both orders whose verdict names the same position both times."""
    prefers_a = (pl.col("logp_a") - pl.col("logp_b")).sign().alias("prefers_a")  # 1, −1, or 0 for neither
    both = tables.rows.select("pair_id", "principle_id", "order", prefers_a)
    swapped = both.filter(pl.col("order") == "01").join(
        both.filter(pl.col("order") == "10"), on=["pair_id", "principle_id"], suffix="_swapped"
    )
    same = swapped.filter(pl.col("prefers_a") == pl.col("prefers_a_swapped"), pl.col("prefers_a") != 0)
    says_a = (pl.col("prefers_a") == 1).alias("says_a")
    examples = same.head(EXAMPLES).select("pair_id", "principle_id", says_a).to_dicts()
    return Measurement(_share(same.height, swapped.height), swapped.height, examples)


def judge_agreement(tables: Tables) -> Measurement:
    """The lower end of the interval of agreement with humans, of labels by one principle each; 0 for a single pair."""
    columns = ["slice", "slice_value", "pairs", "agreement", "agreement_low", "agreement_high"]
    gate = tables.rows.filter(pl.col("slice") == "one_principle").select(columns).to_dicts()
    if not gate:
        return Measurement(None, 0, [])
    examples = tables.rows.sort("agreement").head(EXAMPLES).select(columns).to_dicts()
    return Measurement(gate[0]["agreement_low"] or 0.0, gate[0]["pairs"], examples)


def principle_coverage(tables: Tables) -> Measurement:
    """Principles that were drawn, of those whose weight lets one expect it: five draws or more.

    Of five expected draws none comes with probability e^-5, less than one in a hundred; of one, every third time.
    """
    share = pl.col("weight") / pl.col("weight").sum()
    due = tables.principles.filter(share * tables.rows.height >= EXPECTED_DRAWS)
    missing = due.filter(~pl.col("principle_id").is_in(tables.rows["principle_id"].unique().to_list()))
    examples = missing.head(EXAMPLES).select("slug").to_dicts()
    return Measurement(_share(due.height - missing.height, due.height), due.height, examples)


def length_ratio(tables: Tables) -> Measurement:
    """Mean characters of chosen over mean characters of rejected completions."""

    def characters(column: str) -> pl.Expr:
        return pl.col(column).list.last().struct.field("content").str.len_chars().alias(column)

    lengths = tables.rows.select("pair_id", characters("chosen"), characters("rejected"))
    chosen, rejected = (int(lengths[column].sum()) for column in ("chosen", "rejected"))
    ratio = chosen / max(1, rejected) if lengths.height else None
    widest = lengths.sort((pl.col("chosen") - pl.col("rejected")).abs(), descending=True)
    return Measurement(ratio, lengths.height, widest.head(EXAMPLES).to_dicts())


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: pl.Series) -> float | None:
    return float(values.sum()) / len(values) if len(values) else None


def _examples(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """The ids of a few rows."""
    ids = [name for name in ("prompt_id", "sample", "round", "pair_id") if name in rows.columns]
    return rows.head(EXAMPLES).select(ids).to_dicts()
