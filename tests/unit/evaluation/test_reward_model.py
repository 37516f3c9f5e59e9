import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

import cai_dagster.evaluation.reward_model
from cai_dagster.evaluation.reward_model import (
    REWARD_BENCH,
    REWARD_BINS,
    RewardModelScores,
    ScoredSlice,
    Slice,
    benchmark_scores,
    calibration_error,
    evaluate,
    evaluate_checkpoint,
    reward_distribution,
    scores_table,
    with_intervals,
)
from cai_dagster.evaluation.settings import RewardModelEvaluationSettings
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.validation import pandera_schema
from cai_dagster.training.reward_modelling import TokenPair, soft_label_loss
from tests.labelled_pairs import CharacterFormat, human_preferences, judged_tables, preference_pairs


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def loss(margin: float, p_chosen: float) -> float:
    return float(soft_label_loss(np.array([margin]), np.array([p_chosen]))[0])


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


def test_rewards_are_counted_in_bins_of_equal_width_over_their_range() -> None:
    """−1 … 1 in twenty bins: −1 is in the first, 0 begins the eleventh, 1 belongs to the last."""
    shown = reward_distribution(np.array([[1.0, -1.0], [0.0, -1.0], [0.95, 0.0], [math.nan, math.inf]]))
    assert (shown["reward_low"], shown["reward_high"]) == (-1, 1)
    chosen, rejected = shown["chosen_rewards"], shown["rejected_rewards"]
    assert {number: count for number, count in enumerate(chosen) if count} == {10: 1, 19: 2}
    assert {number: count for number, count in enumerate(rejected) if count} == {0: 2, 10: 1}
    assert len(chosen) == len(rejected) == REWARD_BINS


def test_rewards_that_are_all_equal_or_not_numbers_have_a_distribution_or_none() -> None:
    equal = reward_distribution(np.full((3, 2), 0.25))
    assert equal["reward_low"] < 0.25 < equal["reward_high"]
    assert sum(equal["chosen_rewards"]) == sum(equal["rejected_rewards"]) == 3
    assert set(reward_distribution(np.full((2, 2), math.nan)).values()) == {None}


def test_scores_are_a_row_of_their_table() -> None:
    scores = evaluate([pair(0.9, 5, 6)], np.array([[1.0, 1.0]]))
    row = ScoredSlice(Slice("principle", "kind", []), scores).to_row()
    frame = pl.DataFrame(
        [{**row, "constitution_version": "v1", "checkpoint_key": "ab"}], schema=TABLES["reward_model_evaluation"].schema
    )
    assert set(row) == set(frame.columns) - {"constitution_version", "checkpoint_key"}
    pandera_schema(TABLES["reward_model_evaluation"]).validate(frame)


def score_by_length(rows: Sequence[Sequence[int]]) -> list[float]:
    return [float(len(row)) for row in rows]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Sequence[int]]]:
    """`scoring` imports torch; here a text's reward is its number of tokens. The rows that were asked for."""
    asked: list[Sequence[Sequence[int]]] = []

    class LengthScorer:
        def __init__(self, folder: Path) -> None:
            pass

        def score(self, rows: Sequence[Sequence[int]], batch: int, report: Callable[[str], None]) -> list[float]:
            asked.append(rows)
            return score_by_length(rows)

    module: Any = ModuleType("cai_dagster.training.scoring")
    module.SCORE_BATCH, module.Scorer = 4, LengthScorer
    monkeypatch.setitem(sys.modules, "cai_dagster.training.scoring", module)
    monkeypatch.setattr(cai_dagster.evaluation.reward_model, "ChatFormat", CharacterFormat)
    return asked


def checkpoint(**settings: Any) -> dict[str, str]:
    return {"path": "/no/such/folder", "record": json.dumps({"settings": {"max_length": 12, **settings}})}


SETTINGS = RewardModelEvaluationSettings(resamples=100, seed=0, benchmarks=[])
UNJUDGED = judged_tables({})


def parts_of(tables: Mapping[str, pl.DataFrame]) -> list[dict[str, pl.DataFrame]]:
    """The tables of the feedback model's pairs, and people's."""
    people = {name: table for name, table in tables.items() if name == "human_preferences"}
    return [{name: table for name, table in tables.items() if name not in people}, *([people] if people else [])]


def measured(
    tables: Mapping[str, pl.DataFrame], made_with: Mapping[str, Any] | None = None, **settings: Any
) -> dict[tuple[str, str | None], RewardModelScores]:
    """Scores by slice; no line of a benchmark is rejected."""
    scored = evaluate_checkpoint(
        checkpoint(**(made_with or {})),
        parts_of({**UNJUDGED, **tables}),
        SETTINGS.model_copy(update=settings),
        lambda *row: pytest.fail(str(row)),
        lambda message: None,
    )
    return {(one.part.kind, one.part.value): one.scores for one in scored}


def test_a_checkpoint_is_measured_on_pairs_of_evaluation_prompts_only(
    scored: list[Sequence[Sequence[int]]],
) -> None:
    held_out = preference_pairs(
        ("p", "long one", "short"), ("p", "no", "longer"), ("q", "x", "y" * 99), split="evaluation"
    )
    seen = preference_pairs(("seen", "one", "two"))
    scores = measured({"preference_pairs": pl.concat([seen, held_out])})["all", None]
    assert scores.pairs == 3
    assert scores.accuracy == pytest.approx(1 / 3)
    assert scores.predicted == pytest.approx([sigmoid(3), sigmoid(-4), sigmoid(-8)])
    assert [len(rows) for rows in scored] == [6]
    assert max(len(row) for row in scored[0]) == 12


def test_without_pairs_of_evaluation_prompts_there_is_nothing_to_measure(
    scored: list[Sequence[Sequence[int]]],
) -> None:
    assert measured({"preference_pairs": preference_pairs(("seen", "one", "two"))}) == {}
    assert scored == []


HELD_OUT = preference_pairs(("question", "first", "second"), split="evaluation")
JUDGED = judged_tables(
    {("kind", "01"): {"A": 0.9, "B": 0.1}, ("honest", "01"): {"A": 0.2, "B": 0.8}}, split="evaluation"
)


def test_the_labels_of_a_slice_are_those_of_its_principle_or_of_people(scored: list[Sequence[Sequence[int]]]) -> None:
    """The longer one, "second", has the higher reward, as honesty would have it; people prefer "good" to "bad"."""
    people = human_preferences((3, 1), split="evaluation")
    scores = measured({**JUDGED, "preference_pairs": HELD_OUT, "human_preferences": people}, {"max_length": 99})
    assert {name: one.accuracy for name, one in scores.items()} == {
        ("all", None): 0,
        ("principle", "honest"): 1,
        ("principle", "kind"): 0,
        ("labelled_by", "human"): 1,
    }
    assert scores["principle", "kind"].label == pytest.approx([0.9])
    assert scores["principle", "honest"].label == pytest.approx([0.8])
    assert len(scored[0]) == 4  # a text that stands in several slices is scored once


def test_a_principle_conditioned_checkpoint_is_measured_under_each_principle(
    scored: list[Sequence[Sequence[int]]],
) -> None:
    made_with = {"principle_conditioned": True, "max_length": 99}
    scores = measured({**JUDGED, "preference_pairs": HELD_OUT}, made_with)
    assert {name: one.pairs for name, one in scores.items()} == {
        ("all", None): 2,
        ("principle", "honest"): 1,
        ("principle", "kind"): 1,
    }
    assert all("".join(map(chr, row)).startswith("\0Principle:\n> Which one is more ") for row in scored[0])


def test_benchmarks_are_scored_beside_the_evaluation_prompts(
    scored: list[Sequence[Sequence[int]]], tmp_path: Path
) -> None:
    lines = [
        {"prompt": "p", "chosen": "longer", "rejected": "long", "subset": "donotanswer"},
        {"prompt": "p", "chosen": "no", "rejected": "yes", "subset": "mine"},
    ]
    file = tmp_path / "bench.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = measured({"preference_pairs": HELD_OUT}, benchmarks=[str(file)])
    assert {name: one.accuracy for name, one in scores.items() if name[0] != "all"} == {
        ("benchmark_subset", "bench/donotanswer"): 1,
        ("benchmark_subset", "bench/mine"): 0,
        ("benchmark_category", "bench/Safety"): 1,
        ("benchmark_category", "bench/mine"): 0,
        ("benchmark", "bench"): 0.5,
    }


def test_a_line_of_a_benchmark_that_is_no_pair_is_set_aside_with_its_place(
    scored: list[Sequence[Sequence[int]]], tmp_path: Path
) -> None:
    file = tmp_path / "bench.jsonl"
    file.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p", "completion": "a"}\n')
    rejected: list[tuple[str, str]] = []
    evaluate_checkpoint(
        checkpoint(),
        [{**UNJUDGED, "preference_pairs": HELD_OUT}],
        SETTINGS.model_copy(update={"benchmarks": [str(file)]}),
        lambda row_id, reason, row: rejected.append((row_id, reason)),
        lambda message: None,
    )
    assert rejected == [
        (f"{file}:2", "unscorable_line: there is no 'chosen' in the row; it has ['completion', 'prompt']")
    ]


def subset(name: str, right: int, wrong: int) -> ScoredSlice:
    pairs = [TokenPair([1], [2], 1.0, 1, 1)] * (right + wrong)
    rewards = np.array([[1.0, 0.0]] * right + [[0.0, 1.0]] * wrong)
    return ScoredSlice(Slice("benchmark_subset", f"bench/{name}", pairs), evaluate(pairs, rewards))


def test_a_category_counts_its_subsets_by_their_pairs_and_mathematics_as_much_as_all_code() -> None:
    """Reasoning: code 30 of 40 and 10 of 10, mathematics 1 of 5 with the weight of 50; Chat: 3 of 4; other: 1 of 1."""
    parts = [subset("hep-go", 30, 10), subset("hep-js", 10, 0), subset("math-prm", 1, 4)]
    parts += [subset("alpacaeval-easy", 3, 1), subset("other", 1, 0)]
    made = {(one.part.kind, one.part.value): one.scores for one in benchmark_scores(parts)}
    reasoning = (40 + 50 * 0.2) / 100
    assert made["benchmark_category", "bench/Reasoning"].accuracy == pytest.approx(reasoning)
    assert made["benchmark_category", "bench/Chat"].accuracy == pytest.approx(0.75)
    assert made["benchmark_category", "bench/other"].accuracy == 1
    assert made["benchmark", "bench"].accuracy == pytest.approx((reasoning + 0.75 + 1) / 3)
    assert made["benchmark", "bench"].pairs == 60
    assert made["benchmark", "bench"].longer_wins_accuracy == 0.5
    assert len(made["benchmark", "bench"].rewards) == 60


def test_the_standard_categories_name_each_subset_once() -> None:
    names = [name for members in REWARD_BENCH.values() for name in members]
    assert len(names) == len(set(names)) == 23


def test_scores_have_their_intervals() -> None:
    pairs = [TokenPair([1], [2], 0.9, 5, 3, prompt_id=name) for name in "abcd"]
    scores = with_intervals(pairs, np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), 200, 5)
    assert scores.accuracy_low is not None
    assert scores.accuracy_high is not None
    assert scores.accuracy_low <= scores.accuracy <= scores.accuracy_high
    assert (scores.longer_wins_low, scores.longer_wins_high) == (1, 1)


def test_the_table_for_people_shows_names_as_text() -> None:
    shown = scores_table([subset("a|b\n<script>\x1b[31m", 1, 1)])
    assert r"benchmark\_subset\: bench\/a\|b \<script\>\\x1b\[31m" in shown
    assert len(shown.splitlines()) == 3
