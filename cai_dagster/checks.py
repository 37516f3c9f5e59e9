"""Data-quality checks: what each one measures on a table. Bounds and severity stand in settings.toml.

Each measures one number over one table of one constitution version and names up to five rows behind it. It knows no
Dagster; `assets.checks` puts these on the graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

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


@dataclass(frozen=True)
class Check:
    """One check on one table."""

    name: str
    table: str
    description: str
    advice: str
    measure: Callable[[Tables], Measurement]


def rejected_share(tables: Tables) -> Measurement:
    """Rejected rows of all rows."""
    rejected, kept = tables.rejected.height, tables.rows.height
    examples = tables.rejected.head(EXAMPLES).select("row_id", "reason").to_dicts()
    return Measurement(rejected / max(1, rejected + kept), rejected + kept, examples)


def unfinished_completions(*columns: str) -> Callable[[Tables], Measurement]:
    """Completions that were cut at max_tokens, of all completions in the table."""

    def measure(tables: Tables) -> Measurement:
        cut = pl.sum_horizontal(pl.col(column) == "length" for column in columns)
        unfinished = tables.rows.filter(cut > 0)
        share = _share(tables.rows.select(cut.sum()).item(), tables.rows.height * len(columns))
        return Measurement(share, tables.rows.height, _examples(unfinished))

    return measure


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
    says_a = (pl.col("logp_a") > pl.col("logp_b")).alias("says_a")
    both = tables.rows.select("pair_id", "principle_id", "order", says_a)
    swapped = both.filter(pl.col("order") == "01").join(
        both.filter(pl.col("order") == "10"), on=["pair_id", "principle_id"], suffix="_swapped"
    )
    same = swapped.filter(pl.col("says_a") == pl.col("says_a_swapped"))
    examples = same.head(EXAMPLES).select("pair_id", "principle_id", "says_a").to_dicts()
    return Measurement(_share(same.height, swapped.height), swapped.height, examples)


def principle_coverage(tables: Tables) -> Measurement:
    """Principles of the constitution that were drawn at least once."""
    missing = tables.principles.filter(~pl.col("principle_id").is_in(tables.rows["principle_id"].unique().to_list()))
    count = tables.principles.height
    return Measurement(_share(count - missing.height, count), count, missing.head(EXAMPLES).select("slug").to_dicts())


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


_REJECTED = "Share of rows that were set aside instead of written."
_REJECTED_ADVICE = "Read their reasons: FROM rejected_rows WHERE table_name = '{table}'."
_UNFINISHED = "Share of completions that were cut at max_tokens instead of ended by the model."
_UNFINISHED_ADVICE = "Raise max_tokens of this stage; SL-CAI and the reward model learn from cut texts otherwise."

CHECKS = (
    *(
        Check("rejected_share", table, _REJECTED, _REJECTED_ADVICE.format(table=table), rejected_share)
        for table in ("prompts", "initial_responses", "revision_rounds", "response_pairs", "judgements")
    ),
    *(
        Check("unfinished_completions", table, _UNFINISHED, _UNFINISHED_ADVICE, unfinished_completions(*columns))
        for table, columns in (
            ("initial_responses", ("finish_reason",)),
            ("revision_rounds", ("critique_finish_reason", "revision_finish_reason")),
            ("response_pairs", ("finish_reason_0", "finish_reason_1")),
        )
    ),
    Check(
        "unchanged_revisions",
        "revision_rounds",
        "Share of revisions that are identical to the response they revise.",
        "Look at the examples: the critique found nothing, or the model repeats itself. A stronger model, few-shot "
        "dialogues in the constitution, or a higher temperature help.",
        unchanged_revisions,
    ),
    Check(
        "principle_coverage",
        "revision_rounds",
        "Share of the constitution's principles that were drawn for at least one revision.",
        "Use more prompts or rounds, or give rare principles more weight.",
        principle_coverage,
    ),
    Check(
        "label_mass",
        "judgements",
        "Mean of P(A) + P(B): how sure the feedback model was to answer with a label at all.",
        "Near 0 the labels are noise, whatever they say. Use a feedback model that follows instructions.",
        label_mass,
    ),
    Check(
        "position_bias",
        "judgements",
        "Share of pairs whose verdict follows the position: the same letter in both orders.",
        "Such verdicts cancel out in the soft label. A larger feedback model has less of it (Lee et al. 2023, 2.1.1).",
        position_bias,
    ),
    Check(
        "length_ratio",
        "preference_pairs",
        "Mean length of chosen over mean length of rejected completions, in characters.",
        "Far from 1, a reward model learns length. Look whether the feedback model just prefers longer answers.",
        length_ratio,
    ),
)
