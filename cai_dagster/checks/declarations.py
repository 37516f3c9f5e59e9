"""The data-quality checks: their names, tables, descriptions and advice. What each measures is in `measurements`.

Light on purpose: loading the code location reads this and must not import polars. Bounds and severity stand in
settings.toml; it knows no Dagster, `assets.checks` puts these on the graph. docs/monitoring.md shows all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cai_dagster.tables.registry import graph, made_by
from cai_dagster.tables.table import Maker


@dataclass(frozen=True)
class Check:
    """One check on one table; `name` is that of its function in `measurements`, `also` the other tables it looks at."""

    name: str
    table: str
    description: str
    advice: str
    also: tuple[str, ...] = ()


def _on(tables: Iterable[str], name: str, description: str, advice: str) -> list[Check]:
    """The same check on several tables; {table} in its advice stands for the one."""
    return [Check(name, table, description, advice.format(table=table)) for table in tables]


def _read_row_by_row() -> list[str]:
    """The tables whose rows are set aside one by one: those that files or a language model give, and benchmarks."""
    given = [table.name for table in graph() if table.maker in (Maker.file, Maker.model) and table.prompt_columns]
    return [*given, "reward_model_evaluation"]


def _with_completions() -> list[str]:
    """The tables of completions that a language model writes: judgements are none, though they may have rationales."""
    completions = {table.name: set(table.finish_reasons) - {"rationale_finish_reason"} for table in graph()}
    return [name for name in made_by(Maker.model) if completions[name]]


_CHECKS = (
    *_on(
        _read_row_by_row(),
        "rejected_share",
        "Share of the prompts, responses or pairs worked on that were set aside.",
        "Read their reasons: FROM rejected_rows WHERE table_name = '{table}'.",
    ),
    *_on(
        _with_completions(),
        "unfinished_completions",
        "Share of completions that were cut at max_tokens instead of ended by the model.",
        "Raise max_tokens of this stage; SL-CAI and the reward model learn from cut texts otherwise.",
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
        also=("constitution",),
    ),
    *_on(
        ("revision_rounds", "response_pairs"),
        "refusals",
        "Share of last revisions, or of the completions of pairs, that begin as refusals do (a list of phrases).",
        "Harmless, but evasive: the paper wants objections that are explained. Edit principles that reward refusing, "
        "or look whether the prompts leave no other answer.",
    ),
    *_on(
        ("initial_responses", "revision_rounds", "response_pairs"),
        "repetition",
        "Mean share of four-word sequences of a text that stood in it before (seq-rep-4, Welleck et al. 2020).",
        "Texts that go in circles: a higher temperature, or a model that is not so small. In response_pairs, SL-CAI "
        "was trained for too long or at too high a learning rate.",
    ),
    *_on(
        ("revision_rounds", "response_pairs", "policy_responses"),
        "shared_phrase",
        "Share of prompts whose answers share the most common sequence of six words.",
        "Boilerplate, the paper's sign of over-training (“you are valid, valued, and cared for”; section 4.3). Edit "
        "the principles that ask for it; of a model trained here, train it less, or with a stronger KL penalty.",
    ),
    Check(
        "near_duplicates",
        "revision_rounds",
        "Share of prompts whose last revision is nearly that of another prompt (Jaccard similarity of 0.8 or more).",
        "The revisions no longer answer their prompts. Look at the examples: one refusal for everything, or few-shot "
        "dialogues that are copied.",
    ),
    Check(
        "language_change",
        "revision_rounds",
        "Share of last revisions in another language than the first response.",
        "Say in the revision requests that the answer stays in the language of the prompt, or use a model that can.",
    ),
    Check(
        "identical_pairs",
        "response_pairs",
        "Share of pairs whose two completions are the same text.",
        "Nothing can be preferred in them, and they are not trained on. Raise response_pairs.temperature.",
    ),
    Check(
        "missing_judgements",
        "judgements",
        "Share of the judgements that are missing: of every pair, in every order and under every principle asked for.",
        "Look into rejected_rows why; a pair judged in one order only keeps its position bias.",
        also=("response_pairs",),
    ),
    Check(
        "label_mass",
        "judgements",
        "Mean of P(A) + P(B): how sure the feedback model was to answer with a label at all.",
        "Near 0 the labels are noise, whatever they say. Use a feedback model that follows instructions.",
        also=("response_pairs",),
    ),
    Check(
        "position_bias",
        "judgements",
        "Share of pairs whose verdict follows the position: the same letter in both orders.",
        "Such verdicts cancel out in the soft label. A larger feedback model has less of it (Lee et al. 2023, 2.1.1).",
        also=("response_pairs",),
    ),
    Check(
        "undecided_pairs",
        "judgements",
        "Share of pairs whose label, averaged over orders and principles, lies within 0.05 of one half.",
        "Such labels teach a reward model next to nothing. Raise response_pairs.temperature so that completions "
        "differ, or use a larger feedback model.",
        also=("response_pairs",),
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
    Check(
        "reward_accuracy",
        "reward_model_evaluation",
        "Accuracy of the reward model on pairs of prompts it never saw: the lower end of its 95 % interval.",
        "At one half or below it may have learned nothing. Use more pairs or clearer labels, a larger base model, or "
        "more epochs; with few evaluation prompts the interval is wide.",
    ),
    Check(
        "reward_over_length",
        "reward_model_evaluation",
        "Accuracy of the reward model minus that of preferring the longer completion.",
        "A rule without any weights does as well. See length_ratio of preference_pairs, and balance lengths.",
    ),
    Check(
        "reward_length_correlation",
        "reward_model_evaluation",
        "Spearman's ρ of reward and length in characters, over the evaluation pairs.",
        "Far from 0, what is optimized against this reward gets longer, or shorter, and not better.",
    ),
)

_DRIFT = (
    "Largest change of another check's value on this table, against the version that it is based on, or the nearest "
    "base that was measured (without versions: against the rows before)."
)
_DRIFT_ADVICE = (
    "The examples name each value that changed. Not wrong in itself: look whether the constitution's edit explains it. "
    "Of few rows chance alone moves a share by about 1/√rows."
)

# Drift comes last on its table: it compares what the others found.
CHECKS = (
    *_CHECKS,
    *(Check("drift", table, _DRIFT, _DRIFT_ADVICE) for table in dict.fromkeys(check.table for check in _CHECKS)),
)
