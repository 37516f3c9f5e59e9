import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

import cai_dagster.reward_modelling
from cai_dagster.requests import Messages
from cai_dagster.reward_modelling import (
    TokenPair,
    calibration_error,
    evaluate,
    evaluate_checkpoint,
    soft_label_loss,
    token_pairs,
)
from cai_dagster.tables import TABLES

MARGINS = np.random.default_rng(7).normal(0, 5, 200)
LABELS = np.random.default_rng(8).uniform(0, 1, 200)


class CharacterFormat:
    """A token for each character, and one before each turn."""

    def __init__(self, folder: Path = Path()) -> None:
        pass

    def dialogue_ids(self, messages: Messages) -> list[int]:
        return [token for message in messages for token in (0, *map(ord, message.content))]


FORMAT: Any = CharacterFormat()


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def loss(margin: float, p_chosen: float) -> float:
    return float(soft_label_loss(np.array([margin]), np.array([p_chosen]))[0])


def test_the_loss_is_the_soft_label_formula() -> None:
    naive = [
        -p * math.log(sigmoid(margin)) - (1 - p) * math.log(sigmoid(-margin))
        for margin, p in zip(MARGINS, LABELS, strict=True)
    ]
    assert soft_label_loss(MARGINS, LABELS) == pytest.approx(np.array(naive))


def test_of_a_certain_label_it_is_bradley_terry() -> None:
    assert loss(0.0, 1.0) == pytest.approx(math.log(2))
    assert loss(3.0, 1.0) == pytest.approx(math.log1p(math.exp(-3)))
    assert loss(-3.0, 0.0) == pytest.approx(math.log1p(math.exp(-3)))


def test_without_a_margin_the_loss_is_ln_2_whatever_the_label() -> None:
    assert soft_label_loss(np.zeros(200), LABELS) == pytest.approx(math.log(2))


def test_swapping_the_texts_and_their_label_leaves_the_loss() -> None:
    assert soft_label_loss(-MARGINS, 1 - LABELS) == pytest.approx(soft_label_loss(MARGINS, LABELS))


@pytest.mark.parametrize("p_chosen", [0.501, 0.6, 0.9, 0.999])
def test_the_loss_is_least_where_the_margin_is_the_labels_log_odds(p_chosen: float) -> None:
    best = math.log(p_chosen / (1 - p_chosen))
    entropy = -p_chosen * math.log(p_chosen) - (1 - p_chosen) * math.log(1 - p_chosen)
    assert loss(best, p_chosen) == pytest.approx(entropy)
    for step in (-5, -0.1, 0.1, 5):
        assert loss(best + step, p_chosen) > loss(best, p_chosen)


def test_its_gradient_is_prediction_minus_label() -> None:
    step = 1e-5
    numeric = (soft_label_loss(MARGINS + step, LABELS) - soft_label_loss(MARGINS - step, LABELS)) / (2 * step)
    assert numeric == pytest.approx([sigmoid(m) - p for m, p in zip(MARGINS, LABELS, strict=True)], abs=1e-8)


@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_a_huge_margin_gives_a_finite_loss(margin: float) -> None:
    assert loss(margin, 0.75) == pytest.approx(7_500 if margin < 0 else 2_500)


def pair(p_chosen: float, chosen_length: int = 1, rejected_length: int = 1) -> TokenPair:
    return TokenPair([1], [2], p_chosen, chosen_length, rejected_length)


def test_rewards_are_measured_against_the_labels() -> None:
    """Margins 2, −1, 0: right, wrong, a tie. The chosen one is longer, longer, as long."""
    pairs = [pair(0.9, 10, 5), pair(0.6, 9, 8), pair(0.8, 6, 6)]
    rewards = np.array([[3.0, 1.0], [-2.0, -1.0], [0.5, 0.5]])
    scores = evaluate(pairs, rewards)
    predicted = [sigmoid(2), sigmoid(-1), 0.5]
    gaps = [abs(one - other) for one, other in zip(predicted, [0.9, 0.6, 0.8], strict=True)]
    losses = [loss(2, 0.9), loss(-1, 0.6), loss(0, 0.8)]
    assert scores.pairs == 3
    assert scores.accuracy == pytest.approx(1.5 / 3)
    assert scores.longer_wins_accuracy == pytest.approx(2.5 / 3)
    assert scores.brier_score == pytest.approx(sum(gap**2 for gap in gaps) / 3)
    assert scores.calibration_error == pytest.approx(sum(gaps) / 3)  # each falls into a bin of its own
    assert scores.log_loss == pytest.approx(sum(losses) / 3)
    assert scores.constant_log_loss == pytest.approx(0.693147, abs=1e-6)
    assert scores.predicted == pytest.approx(predicted)
    assert scores.label == [0.9, 0.6, 0.8]


def test_perfect_rewards_have_perfect_scores() -> None:
    labels = [0.6, 0.75, 0.9]
    rewards = np.array([[math.log(p / (1 - p)), 0.0] for p in labels])
    scores = evaluate([pair(p, 5, 9) for p in labels], rewards)
    assert (scores.accuracy, scores.longer_wins_accuracy) == (1.0, 0.0)
    assert scores.brier_score == pytest.approx(0)
    assert scores.calibration_error == pytest.approx(0)
    assert scores.log_loss < scores.constant_log_loss


def test_calibration_compares_means_within_a_bin() -> None:
    """0.62 and 0.68 share a bin whose labels have the same mean; 0.31 is 0.09 off and one pair of four; 1 is a bin."""
    predicted = np.array([0.62, 0.68, 0.31, 1.0])
    assert calibration_error(predicted, np.array([0.7, 0.6, 0.4, 1.0])) == pytest.approx(0.09 / 4)
    assert calibration_error(predicted, np.array([0.8, 0.7, 0.31, 1.0])) == pytest.approx(0.1 * 2 / 4)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_length_correlation_is_over_all_texts_by_rank(sign: int) -> None:
    pairs = [pair(0.9, 40, 3), pair(0.8, 1, 900)]
    rewards = sign * np.array([[3.0, 2.0], [1.0, 100.0]])
    assert evaluate(pairs, rewards).length_correlation == pytest.approx(sign)


def test_the_length_correlation_is_none_where_one_side_does_not_vary() -> None:
    varied = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert evaluate([pair(0.9, 5, 5), pair(0.8, 5, 5)], varied).length_correlation is None
    assert evaluate([pair(0.9, 5, 6), pair(0.8, 7, 8)], np.ones((2, 2))).length_correlation is None
    assert evaluate([pair(0.9, 5, 6)], np.array([[1.0, 0.0]])).length_correlation == pytest.approx(-1)


def test_scores_are_a_row_of_their_table() -> None:
    row = evaluate([pair(0.9, 5, 6)], np.array([[1.0, 1.0]])).to_row()
    frame = pl.DataFrame(
        [{**row, "constitution_version": "v1", "checkpoint_key": "ab"}], schema=TABLES["reward_model_evaluation"].schema
    )
    assert set(row) == set(frame.columns) - {"constitution_version", "checkpoint_key"}
    TABLES["reward_model_evaluation"].model.validate(frame)


def preference_pairs(*texts: tuple[str, str, str], split: str = "preference") -> pl.DataFrame:
    rows = [
        {
            "constitution_version": "v1",
            "pair_id": f"{number:x}",
            "prompt_id": "ab",
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "p_chosen": 0.75,
            "label_policy": "soft",
            "source": "revisions",
            "split": split,
        }
        for number, (prompt, chosen, rejected) in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=TABLES["preference_pairs"].schema)


def test_a_pair_becomes_two_whole_dialogues() -> None:
    (made,) = token_pairs(preference_pairs(("ab", "good", "bad")), FORMAT, 100)
    assert made.chosen_ids == [0, *map(ord, "ab"), 0, *map(ord, "good")]
    assert made.rejected_ids == [0, *map(ord, "ab"), 0, *map(ord, "bad")]
    assert (made.p_chosen, made.chosen_length, made.rejected_length) == (0.75, 4, 3)


def test_pairs_are_cut_and_lengths_are_those_of_the_whole_texts() -> None:
    (made,) = token_pairs(preference_pairs(("ab", "good text", "bad")), FORMAT, 6)
    assert made.chosen_ids == [0, *map(ord, "ab"), 0, *map(ord, "go")]
    assert made.rejected_ids == [0, *map(ord, "ab"), 0, *map(ord, "ba")]
    assert (made.chosen_length, made.rejected_length) == (9, 3)


@pytest.mark.parametrize(("max_length", "kept"), [(7, 1), (8, 2), (100, 2)])
def test_pairs_that_have_become_identical_are_dropped(max_length: int, kept: int) -> None:
    """ "same A" and "same B" differ in their token 8 (of 9); "one" and "two" in their first."""
    pairs = preference_pairs(("", "sameyA", "sameyB"), ("", "one", "two"))
    made = token_pairs(pairs, FORMAT, max_length)
    assert len(made) == kept
    assert made[-1].chosen_length == 3


def score_by_length(rows: Sequence[Sequence[int]]) -> list[float]:
    return [float(len(row)) for row in rows]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Sequence[int]]]:
    """`scoring` imports torch; here a text's reward is its number of tokens. The rows that were asked for."""
    asked: list[Sequence[Sequence[int]]] = []

    def score_texts(
        folder: Path, rows: Sequence[Sequence[int]], batch: int, report: Callable[[str], None]
    ) -> list[float]:
        asked.append(rows)
        return score_by_length(rows)

    module: Any = ModuleType("cai_dagster.scoring")
    module.SCORE_BATCH, module.score_texts = 4, score_texts
    monkeypatch.setitem(sys.modules, "cai_dagster.scoring", module)
    monkeypatch.setattr(cai_dagster.reward_modelling, "ChatFormat", CharacterFormat)
    return asked


CHECKPOINT = {"path": "/no/such/folder", "record": json.dumps({"settings": {"max_length": 12}})}


def test_a_checkpoint_is_measured_on_pairs_of_evaluation_prompts_only(
    scored: list[Sequence[Sequence[int]]],
) -> None:
    held_out = preference_pairs(
        ("p", "long one", "short"), ("p", "no", "longer"), ("q", "x", "y" * 99), split="evaluation"
    )
    seen = preference_pairs(("seen", "one", "two"))
    scores = evaluate_checkpoint(CHECKPOINT, pl.concat([seen, held_out]), lambda message: None)
    assert scores
    assert scores.pairs == 3
    assert scores.accuracy == pytest.approx(1 / 3)
    assert scores.predicted == pytest.approx([sigmoid(3), sigmoid(-4), sigmoid(-8)])
    assert [len(rows) for rows in scored] == [6]
    assert max(len(row) for row in scored[0]) == 12


def test_without_pairs_of_evaluation_prompts_there_is_nothing_to_measure(
    scored: list[Sequence[Sequence[int]]],
) -> None:
    assert evaluate_checkpoint(CHECKPOINT, preference_pairs(("seen", "one", "two")), lambda message: None) is None
    assert scored == []
