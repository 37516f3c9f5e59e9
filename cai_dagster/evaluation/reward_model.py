"""How a reward model is measured: against the labels of prompts it never saw, and on benchmark files.

Each slice of the held-out pairs gets the same numbers, beside those of two baselines that look at no text: always one
half, and the longer one wins. Intervals are bootstrapped over prompts, because the pairs of a prompt are not
independent. It knows no trainer and no table store.
"""

# pyright: reportMissingTypeStubs=false

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from cai_dagster.evaluation.intervals import mean_interval
from cai_dagster.evaluation.settings import RewardModelEvaluationSettings
from cai_dagster.inputs.files import stem_of
from cai_dagster.inputs.settings import Split
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.project import PROJECT
from cai_dagster.text import escaped
from cai_dagster.training.reward_modelling import (
    HUMAN,
    TokenPair,
    ai_pairs,
    human_pairs,
    principle_pairs,
    soft_label_loss,
    token_pairs,
)
from cai_dagster.training.scored_texts import Reading, read_benchmark

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALIBRATION_BINS = 10
REWARD_BINS = 20

# Categories of RewardBench (Lambert et al. 2024, arXiv:2403.13787, table 1); any other subset is a category of its own.
REWARD_BENCH = {
    "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med"),
    "Chat Hard": (
        "mt-bench-hard",
        "llmbar-natural",
        "llmbar-adver-neighbor",
        "llmbar-adver-GPTInst",
        "llmbar-adver-GPTOut",
        "llmbar-adver-manual",
    ),
    "Safety": (
        "refusals-dangerous",
        "refusals-offensive",
        "xstest-should-refuse",
        "xstest-should-respond",
        "donotanswer",
    ),
    "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"),
}
_MATHEMATICS, _CODE = "math-prm", "hep-"


@dataclass(frozen=True)
class Slice:
    """Some of the held-out pairs: all, or those of one principle, one kind of labeller, one subset of a benchmark."""

    kind: str
    value: str | None
    pairs: Sequence[TokenPair]


@dataclass(frozen=True)
class RewardModelScores:
    """A reward model against labels; see `tables.RewardModelEvaluation` for each number.

    Of each pair: `rewards` of (chosen, rejected), `predicted` σ(reward margin), `label` P(chosen).
    """

    pairs: int
    accuracy: float
    log_loss: float
    constant_log_loss: float
    brier_score: float
    calibration_error: float
    length_correlation: float | None
    longer_wins_accuracy: float
    predicted: list[float]
    label: list[float]
    rewards: list[tuple[float, float]]
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    longer_wins_low: float | None = None
    longer_wins_high: float | None = None

    @property
    def numbers(self) -> dict[str, float | int | None]:
        """What is one number for all pairs together."""
        return {name: value for name, value in vars(self).items() if name not in {"predicted", "label", "rewards"}}


@dataclass(frozen=True)
class ScoredSlice:
    """A slice and what was measured on it."""

    part: Slice
    scores: RewardModelScores

    def to_row(self) -> dict[str, Any]:
        """The columns of `reward_model_evaluation`."""
        distribution = reward_distribution(np.array(self.scores.rewards))
        return {"slice": self.part.kind, "slice_value": self.part.value, **self.scores.numbers, **distribution}


def evaluate_checkpoint(
    checkpoint: Mapping[str, Any],
    parts: Iterable[Mapping[str, pl.DataFrame]],
    settings: RewardModelEvaluationSettings,
    reject: Callable[[str, str, Mapping[str, Any]], None],
    report: Callable[[str], None],
) -> list[ScoredSlice]:
    """Score a row of `reward_model` on the pairs of evaluation prompts, and on the benchmarks of the settings.

    `parts` have all tables of some pairs (preference_pairs, response_pairs, judgements, prompts, constitution), or rows
    of human_preferences. The first slice is all that the feedback model labelled; the list is empty where there is
    none of that. A line of a benchmark that is no pair goes to `reject`, with its place and the reason. Raises
    BenchmarkError when a benchmark cannot be read.
    """
    from cai_dagster.training.scoring import SCORE_BATCH, Scorer

    folder = Path(checkpoint["path"])
    trained_with = json.loads(checkpoint["record"])["settings"]
    chat_format, max_length = ChatFormat(folder), int(trained_with["max_length"])
    texts: dict[bytes, array[int]] = {}
    found: dict[tuple[str, str | None], list[TokenPair]] = {}
    for tables in parts:
        for kind, value, rows in _held_out(tables, trained_with):
            pairs = token_pairs(rows.iter_rows(named=True), chat_format, max_length)
            found.setdefault((kind, value), []).extend(_packed(pairs, texts))
    if not found.get(("all", None)):
        return []
    slices = [Slice(*name, pairs) for name, pairs in found.items() if pairs]
    reading = Reading(chat_format, max_length, trained_with.get("principle_conditioned", False))
    for file in settings.benchmarks:
        path = PROJECT / Path(file).expanduser()
        subsets, rejected = read_benchmark(path, reading, report)
        slices += [
            Slice("benchmark_subset", f"{stem_of(path)}/{subset}", _packed(pairs, texts))
            for subset, pairs in subsets.items()
        ]
        for line in rejected:
            place = Path(file) / line.place if path.is_dir() else Path(file).with_name(line.place)
            reject(str(place), line.reason, line.row)
    rows = sorted(texts.values(), key=lambda ids: (len(ids), ids))
    rewards = dict(zip(map(_digest, rows), Scorer(folder).score(rows, SCORE_BATCH, report), strict=True))
    scored = [ScoredSlice(part, _scores_of(part, rewards, settings)) for part in slices]
    return scored + benchmark_scores([one for one in scored if one.part.kind == "benchmark_subset"])


def _packed(pairs: Iterable[TokenPair], texts: "dict[bytes, array[int]]") -> list[TokenPair]:
    """The pairs with the tokens of each text once, in four bytes a token: there are many; `texts` has them all."""

    def once(ids: Sequence[int]) -> "array[int]":
        return texts.setdefault(_digest(ids), array("i", ids))

    return [replace(pair, chosen_ids=once(pair.chosen_ids), rejected_ids=once(pair.rejected_ids)) for pair in pairs]


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("i", ids), digest_size=16).digest()


def _held_out(
    tables: Mapping[str, pl.DataFrame], trained_with: Mapping[str, Any]
) -> list[tuple[str, str | None, pl.DataFrame]]:
    """Kind and value of each slice of evaluation prompts, and its pairs, shown to the model as it was trained."""
    conditioned = trained_with.get("principle_conditioned", False)
    unseen = pl.col("split") == Split.evaluation
    if "human_preferences" in tables:
        if conditioned and "human_principle" not in trained_with:
            return []
        certain = trained_with.get("human_p_chosen", 1.0)
        principle = trained_with["human_principle"] if conditioned else None
        people = human_pairs(tables["human_preferences"], certain, principle=principle)
        return [("labelled_by", HUMAN, people.filter(unseen))]
    by_principle = principle_pairs(tables).filter(unseen)
    shown = by_principle if conditioned else by_principle.with_columns(pl.lit(None, dtype=pl.String).alias("principle"))
    everything = shown if conditioned else ai_pairs(tables["preference_pairs"]).filter(unseen)
    parts: list[tuple[str, str | None, pl.DataFrame]] = [("all", None, everything)]
    for slug, principle_id in tables["constitution"].sort("slug").select("slug", "principle_id").iter_rows():
        parts.append(("principle", slug, shown.filter(pl.col("principle_id") == principle_id)))
    return parts


def _scores_of(
    part: Slice, rewards: Mapping[bytes, float], settings: RewardModelEvaluationSettings
) -> RewardModelScores:
    both = [(rewards[_digest(pair.chosen_ids)], rewards[_digest(pair.rejected_ids)]) for pair in part.pairs]
    return with_intervals(part.pairs, np.array(both, dtype=np.float64), settings.resamples, settings.seed)


def evaluate(pairs: Sequence[TokenPair], rewards: "NDArray[np.float64]") -> RewardModelScores:
    """Measure rewards (shape pairs × 2: chosen, rejected) against the labels of the pairs; a tie counts one half."""
    margin = rewards[:, 0] - rewards[:, 1]
    label = np.array([pair.p_chosen for pair in pairs])
    lengths = _lengths(pairs)
    predicted = _sigmoid(margin)
    return RewardModelScores(
        pairs=len(pairs),
        accuracy=float(np.mean(_first_wins(margin))),
        log_loss=float(np.mean(soft_label_loss(margin, label))),
        constant_log_loss=float(np.log(2)),
        brier_score=float(np.mean((predicted - label) ** 2)),
        calibration_error=calibration_error(predicted, label),
        length_correlation=_rank_correlation(rewards.ravel(), lengths.ravel()),
        longer_wins_accuracy=float(np.mean(_first_wins(lengths[:, 0] - lengths[:, 1]))),
        predicted=predicted.tolist(),
        label=label.tolist(),
        rewards=[(float(chosen), float(rejected)) for chosen, rejected in rewards],
    )


def reward_distribution(rewards: "NDArray[np.float64]") -> dict[str, Any]:
    """Counts of the finite rewards (shape pairs × 2: chosen, rejected) in bins of equal width, and where they lie.

    All are None where no reward is finite. Of equal rewards the range is one wide, with them in its middle.
    """
    finite = rewards[np.isfinite(rewards)]
    if not finite.size:
        return dict.fromkeys(("reward_low", "reward_high", "chosen_rewards", "rejected_rewards"))
    edges = np.histogram_bin_edges(finite, REWARD_BINS)
    chosen, rejected = (np.histogram(side[np.isfinite(side)], edges)[0].tolist() for side in rewards.T)
    ends = {"reward_low": float(edges[0]), "reward_high": float(edges[-1])}
    return {**ends, "chosen_rewards": chosen, "rejected_rewards": rejected}


def with_intervals(
    pairs: Sequence[TokenPair], rewards: "NDArray[np.float64]", resamples: int, seed: int
) -> RewardModelScores:
    """`evaluate` with 95 % intervals of both accuracies; None where all pairs are of one prompt."""
    lengths = _lengths(pairs)
    prompts = [pair.prompt_id for pair in pairs]
    low, high = mean_interval(_first_wins(rewards[:, 0] - rewards[:, 1]), resamples, seed, prompts)
    longer_low, longer_high = mean_interval(_first_wins(lengths[:, 0] - lengths[:, 1]), resamples, seed, prompts)
    return replace(
        evaluate(pairs, rewards),
        accuracy_low=low,
        accuracy_high=high,
        longer_wins_low=longer_low,
        longer_wins_high=longer_high,
    )


def benchmark_scores(subsets: Sequence[ScoredSlice]) -> list[ScoredSlice]:
    """The standard scores of benchmarks: accuracy per category, and the mean of the categories.

    As RewardBench has them: a subset counts by its pairs, except that mathematics counts as much as all code subsets
    together; all categories count the same. `subsets` are the slices `<benchmark>/<subset>`; the other numbers of a
    category are those over all its pairs.
    """
    category_of = {subset: category for category, members in REWARD_BENCH.items() for subset in members}
    grouped: dict[str, dict[str, list[ScoredSlice]]] = {}
    for one in subsets:
        benchmark, subset = _benchmark_and_subset(one)
        category = category_of.get(subset, subset)
        grouped.setdefault(benchmark, {}).setdefault(category, []).append(one)
    made: list[ScoredSlice] = []
    for benchmark, categories in grouped.items():
        of_categories = [
            _pooled("benchmark_category", f"{benchmark}/{name}", members) for name, members in categories.items()
        ]
        overall = _pooled("benchmark", benchmark, [one for members in categories.values() for one in members])
        means = {
            number: float(np.mean([getattr(one.scores, number) for one in of_categories]))
            for number in ("accuracy", "longer_wins_accuracy")
        }
        made += [*of_categories, replace(overall, scores=replace(overall.scores, **means))]
    return made


def _benchmark_and_subset(one: ScoredSlice) -> tuple[str, str]:
    benchmark, _, subset = str(one.part.value).partition("/")
    return benchmark, subset


def _pooled(kind: str, value: str, members: Sequence[ScoredSlice]) -> ScoredSlice:
    """Several subsets as one slice: numbers over their pairs, the accuracies weighted as RewardBench does."""
    counts = {_benchmark_and_subset(one)[1]: one.scores.pairs for one in members}
    code = sum(count for subset, count in counts.items() if subset.startswith(_CODE))
    standard = [code if code and subset == _MATHEMATICS else count for subset, count in counts.items()]
    by_pairs = list(counts.values())

    def mean(number: str, weights: Sequence[int]) -> float:
        return float(np.average([getattr(one.scores, number) for one in members], weights=weights))

    predicted = [prediction for one in members for prediction in one.scores.predicted]
    label = [probability for one in members for probability in one.scores.label]
    rewards = [both for one in members for both in one.scores.rewards]
    scores = RewardModelScores(
        pairs=sum(by_pairs),
        accuracy=mean("accuracy", standard),
        log_loss=mean("log_loss", by_pairs),
        constant_log_loss=mean("constant_log_loss", by_pairs),
        brier_score=mean("brier_score", by_pairs),
        calibration_error=calibration_error(np.array(predicted), np.array(label)),
        length_correlation=None,
        longer_wins_accuracy=mean("longer_wins_accuracy", standard),
        predicted=predicted,
        label=label,
        rewards=rewards,
    )
    return ScoredSlice(Slice(kind, value, [pair for one in members for pair in one.part.pairs]), scores)


def scores_table(scored: Sequence[ScoredSlice]) -> str:
    """A markdown table of the slices, for people."""
    lines = ["| slice | pairs | accuracy | longer wins | log loss | calibration error |", "|---|---|---|---|---|---|"]
    for one in scored:
        name = one.part.kind if one.part.value is None else f"{one.part.kind}: {one.part.value}"
        scores = one.scores
        accuracy = _with_interval(scores.accuracy, scores.accuracy_low, scores.accuracy_high)
        longer = _with_interval(scores.longer_wins_accuracy, scores.longer_wins_low, scores.longer_wins_high)
        lines.append(
            f"| {escaped(name)} | {scores.pairs:,} | {accuracy} | {longer} | {scores.log_loss:.4f} | "
            f"{scores.calibration_error:.4f} |"
        )
    return "\n".join(lines)


def _with_interval(share: float, low: float | None, high: float | None) -> str:
    return f"{share:.3f}" if low is None or high is None else f"{share:.3f} ({low:.3f}–{high:.3f})"


def calibration_error(predicted: "NDArray[np.float64]", label: "NDArray[np.float64]") -> float:
    """Expected calibration error: |mean prediction − mean label| a bin of equal width, weighted by its pairs."""
    bins = np.minimum((predicted * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    error = 0.0
    for number in range(CALIBRATION_BINS):
        inside = bins == number
        if inside.any():
            error += abs(float(np.mean(predicted[inside] - label[inside]))) * np.count_nonzero(inside) / len(label)
    return float(error)


def _lengths(pairs: Sequence[TokenPair]) -> "NDArray[np.float64]":
    return np.array([(pair.chosen_length, pair.rejected_length) for pair in pairs], dtype=np.float64)


def _first_wins(difference: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """1 where the first is ahead, one half for a tie."""
    return np.heaviside(difference, 0.5)


def _sigmoid(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return np.exp(-np.logaddexp(0, -values))


def _rank_correlation(first: "NDArray[np.float64]", second: "NDArray[np.float64]") -> float | None:
    """Spearman's ρ; None where one side does not vary."""
    from scipy import stats

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    library: Any = stats
    return float(library.spearmanr(first, second).statistic)
