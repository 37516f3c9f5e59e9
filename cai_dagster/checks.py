"""The data-quality checks: their names, tables, descriptions and advice. What each measures is in `measurements`.

Light on purpose: loading the code location reads this and must not import polars. Bounds and severity stand in
settings.toml; it knows no Dagster, `assets.checks` puts these on the graph.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check on one table; `name` is that of its function in `measurements`."""

    name: str
    table: str
    description: str
    advice: str


_REJECTED = "Share of rows that were set aside instead of written."
_REJECTED_ADVICE = "Read their reasons: FROM rejected_rows WHERE table_name = '{table}'."
_UNFINISHED = "Share of completions that were cut at max_tokens instead of ended by the model."
_UNFINISHED_ADVICE = "Raise max_tokens of this stage; SL-CAI and the reward model learn from cut texts otherwise."

CHECKS = (
    *(
        Check("rejected_share", table, _REJECTED, _REJECTED_ADVICE.format(table=table))
        for table in ("prompts", "initial_responses", "revision_rounds", "response_pairs", "judgements")
    ),
    *(
        Check("unfinished_completions", table, _UNFINISHED, _UNFINISHED_ADVICE)
        for table in ("initial_responses", "revision_rounds", "response_pairs")
    ),
    Check(
        "unchanged_revisions",
        "revision_rounds",
        "Share of revisions that are identical to the response they revise.",
        "Look at the examples: the critique found nothing, or the model repeats itself. A stronger model, few-shot "
        "dialogues in the constitution, or a higher temperature help.",
    ),
    Check(
        "principle_coverage",
        "revision_rounds",
        "Share of the principles drawn at least once, of those whose weight lets one expect five draws.",
        "Use more prompts or rounds, or give rare principles more weight.",
    ),
    Check(
        "label_mass",
        "judgements",
        "Mean of P(A) + P(B): how sure the feedback model was to answer with a label at all.",
        "Near 0 the labels are noise, whatever they say. Use a feedback model that follows instructions.",
    ),
    Check(
        "position_bias",
        "judgements",
        "Share of pairs whose verdict follows the position: the same letter in both orders.",
        "Such verdicts cancel out in the soft label. A larger feedback model has less of it (Lee et al. 2023, 2.1.1).",
    ),
    Check(
        "judge_agreement",
        "judge_calibration",
        "Agreement of the feedback model with humans, one principle a label: the lower end of its 95 % interval.",
        "At one half or below, its labels say nothing of what people prefer. Use a larger feedback model or another "
        "judging method, or calibrate on more pairs (judge_calibration.max_pairs): few give a wide interval.",
    ),
    Check(
        "length_ratio",
        "preference_pairs",
        "Mean length of chosen over mean length of rejected completions, in characters.",
        "Far from 1, a reward model learns length. Look whether the feedback model just prefers longer answers.",
    ),
)
