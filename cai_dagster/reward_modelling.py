"""The reward model: what it is trained on, its loss, and how it is measured. It knows no trainer and no table store.

Bradley–Terry with soft labels: −p·log σ(r_c − r_r) − (1−p)·log σ(r_r − r_c), where p = P(chosen) (Lee et al. 2023,
section 2.2.1; Bai et al. 2022, section 4.1 for the soft label).
"""

# pyright: reportMissingTypeStubs=false

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from cai_dagster.chat_format import ChatFormat
from cai_dagster.hashing import content_hash
from cai_dagster.requests import to_messages

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class TokenPair:
    """A preference pair as tokens, with its soft label and the lengths of its texts in characters."""

    chosen_ids: list[int]
    rejected_ids: list[int]
    p_chosen: float
    chosen_length: int
    rejected_length: int


def pairs_hash(pairs: pl.DataFrame) -> str:
    """The training pairs in their order, for the key of a checkpoint."""
    return content_hash(pairs.select("prompt", "chosen", "rejected", "p_chosen").to_dicts())


def token_pairs(pairs: pl.DataFrame, chat_format: ChatFormat, max_length: int) -> list[TokenPair]:
    """The pairs cut to `max_length` tokens, without those that have become identical: they teach nothing.

    (Their loss is ln 2 whatever the reward: OpenRLHF issue 1311.)
    """
    tokenized: list[TokenPair] = []
    for row in pairs.iter_rows(named=True):
        prompt, chosen, rejected = (to_messages(row[column]) for column in ("prompt", "chosen", "rejected"))
        pair = TokenPair(
            chosen_ids=chat_format.dialogue_ids((*prompt, *chosen))[:max_length],
            rejected_ids=chat_format.dialogue_ids((*prompt, *rejected))[:max_length],
            p_chosen=row["p_chosen"],
            chosen_length=len(chosen[-1].content),
            rejected_length=len(rejected[-1].content),
        )
        if pair.chosen_ids != pair.rejected_ids:
            tokenized.append(pair)
    return tokenized


@dataclass(frozen=True)
class RewardModelScores:
    """A reward model against soft labels; see `tables.RewardModelEvaluation` for each number.

    `predicted` is σ(reward margin) and `label` P(chosen) of each pair, for plotting.
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

    def to_row(self) -> dict[str, float | int | None]:
        """The columns of `reward_model_evaluation`."""
        row = dict(vars(self))
        del row["predicted"], row["label"]
        return row


def evaluate_checkpoint(
    checkpoint: Mapping[str, Any], preference_pairs: pl.DataFrame, report: Callable[[str], None]
) -> RewardModelScores | None:
    """Score the pairs of evaluation prompts with a row of `reward_model`; None where there is no such pair."""
    from cai_dagster.scoring import SCORE_BATCH, score_texts

    folder = Path(checkpoint["path"])
    max_length = int(json.loads(checkpoint["record"])["settings"]["max_length"])
    held_out = preference_pairs.filter(pl.col("split") == "evaluation")
    pairs = token_pairs(held_out, ChatFormat(folder), max_length)
    if not pairs:
        return None
    rows = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    rewards = score_texts(folder, rows, SCORE_BATCH, report)
    return evaluate(pairs, np.array(rewards, dtype=np.float64).reshape(2, len(pairs)).T)


def evaluate(pairs: Sequence[TokenPair], rewards: "NDArray[np.float64]") -> RewardModelScores:
    """Measure rewards (shape pairs × 2: chosen, rejected) against the labels of the pairs; a tie counts one half."""
    margin = rewards[:, 0] - rewards[:, 1]
    label = np.array([pair.p_chosen for pair in pairs])
    lengths = np.array([(pair.chosen_length, pair.rejected_length) for pair in pairs], dtype=np.float64)
    predicted = _sigmoid(margin)
    return RewardModelScores(
        pairs=len(pairs),
        accuracy=_share_first_wins(margin),
        log_loss=float(np.mean(soft_label_loss(margin, label))),
        constant_log_loss=float(np.log(2)),
        brier_score=float(np.mean((predicted - label) ** 2)),
        calibration_error=calibration_error(predicted, label),
        length_correlation=_rank_correlation(rewards.ravel(), lengths.ravel()),
        longer_wins_accuracy=_share_first_wins(lengths[:, 0] - lengths[:, 1]),
        predicted=predicted.tolist(),
        label=label.tolist(),
    )


def soft_label_loss(margin: "NDArray[np.float64]", p_chosen: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """−p·log σ(m) − (1−p)·log σ(−m) for each pair, in nats; m = r_chosen − r_rejected."""
    return p_chosen * np.logaddexp(0, -margin) + (1 - p_chosen) * np.logaddexp(0, margin)


def calibration_error(predicted: "NDArray[np.float64]", label: "NDArray[np.float64]") -> float:
    """Expected calibration error: |mean prediction − mean label| a bin of equal width, weighted by its pairs."""
    bins = np.minimum((predicted * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    error = 0.0
    for number in range(CALIBRATION_BINS):
        inside = bins == number
        if inside.any():
            error += abs(float(np.mean(predicted[inside] - label[inside]))) * np.count_nonzero(inside) / len(label)
    return float(error)


def _share_first_wins(difference: "NDArray[np.float64]") -> float:
    return float(np.mean(np.heaviside(difference, 0.5)))


def _sigmoid(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return np.exp(-np.logaddexp(0, -values))


def _rank_correlation(first: "NDArray[np.float64]", second: "NDArray[np.float64]") -> float | None:
    """Spearman's ρ; None where one side does not vary."""
    from scipy import stats

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    library: Any = stats
    return float(library.spearmanr(first, second).statistic)
