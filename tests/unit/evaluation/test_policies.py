"""Win rates by hand: what counts as a win, a tie, a missing comparison, and how sure a rate is."""

import math
from typing import Any

import polars as pl
import pytest

from cai_dagster.evaluation.policies import (
    Measured,
    PolicyScore,
    both_ways,
    compare,
    evaluate_policies,
    markdown_table,
    win_rate_plot,
)
from cai_dagster.inputs.pairs import pair_id
from cai_dagster.recipes.policies import COMPARED, pair_to_judge
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.validation import pandera_schema

SETTINGS = active_settings().policy_evaluation.model_copy(update={"resamples": 300})


def responses(**answers: list[str]) -> pl.DataFrame:
    """The answers of each policy to the prompts 0, 1, …"""
    rows = [
        {
            "constitution_version": "v1",
            "policy": policy,
            "prompt_id": f"{number:x}",
            "completion": text,
            "finish_reason": "stop",
            "request_id": "ab",
        }
        for policy, texts in answers.items()
        for number, text in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=TABLES["policy_responses"].schema)


def judgement(policies: tuple[str, str], prompt: int, texts: tuple[str, str], order: str, p_a: float) -> dict[str, Any]:
    prompt_id = f"{prompt:x}"
    return {
        "constitution_version": "v1",
        "pair_id": pair_id(prompt_id, *texts),
        "principle_id": "cd",
        "order": order,
        "logp_a": math.log(p_a),
        "logp_b": math.log(1 - p_a),
        "rationale": None,
        "feedback_model": "judge",
        "request_id": "ef",
        "policy_0": policies[0],
        "policy_1": policies[1],
        "prompt_id": prompt_id,
    }


def judgements(*rows: dict[str, Any]) -> pl.DataFrame:
    schema = {name: dtype for name, dtype in TABLES["policy_judgements"].schema.items() if name in rows[0]}
    return pl.DataFrame(rows, schema=schema)


def measured(answers: pl.DataFrame, judged: pl.DataFrame, *rewards: float) -> Measured:
    return Measured.of(answers.with_columns(pl.Series("reward", rewards)), judged)


TWO = responses(dpo=["one", "two", "same"], sl=["eins", "zwei", "same"])
JUDGED = judgements(
    judgement(("dpo", "sl"), 0, ("one", "eins"), "01", 0.9),
    judgement(("dpo", "sl"), 0, ("one", "eins"), "10", 0.3),  # P(completion_0) = 0.7
    judgement(("dpo", "sl"), 1, ("two", "zwei"), "01", 0.6),
    judgement(("dpo", "sl"), 1, ("two", "zwei"), "10", 0.9),  # P(completion_0) = 0.1
)


def test_both_orders_are_averaged_and_equal_texts_are_a_tie() -> None:
    compared = compare(TWO, JUDGED)
    assert compared["p_0"].to_list() == pytest.approx([0.8, 0.35, 0.5])
    assert compared["identical"].to_list() == [False, False, True]


def test_a_win_counts_one_a_tie_one_half_from_both_sides() -> None:
    duels = both_ways(compare(TWO, JUDGED)).sort("policy", "prompt_id")
    assert duels["win"].to_list() == [1.0, 0.0, 0.5, 0.0, 1.0, 0.5]
    assert duels["p_better"].to_list() == pytest.approx([0.8, 0.35, 0.5, 0.2, 0.65, 0.5])


def test_a_judge_that_follows_the_position_makes_ties() -> None:
    one = responses(dpo=["one"], sl=["eins"])
    always_a = [judgement(("dpo", "sl"), 0, ("one", "eins"), order, 0.8) for order in ("01", "10")]
    assert both_ways(compare(one, judgements(*always_a)))["win"].to_list() == [0.5, 0.5]


def test_a_comparison_without_a_judgement_is_missing_and_no_tie() -> None:
    compared = compare(TWO, JUDGED.filter(pl.col("prompt_id") == "0"))
    assert compared["prompt_id"].to_list() == ["0", "2"]


def test_results_have_a_row_for_each_opponent_and_one_for_all() -> None:
    scores = evaluate_policies([measured(TWO, JUDGED, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)], SETTINGS)
    assert [(score.policy, score.opponent) for score in scores] == [
        ("dpo", "all"),
        ("dpo", "sl"),
        ("sl", "all"),
        ("sl", "dpo"),
    ]
    overall, against_sl, *_ = scores
    assert (against_sl.win_rate, against_sl.prompts, against_sl.identical) == (0.5, 3, pytest.approx(1 / 3))
    assert overall.mean_reward == 2
    assert overall.mean_length == pytest.approx((3 + 3 + 4) / 3)
    assert overall.refusal_rate == 0
    assert against_sl.mean_reward is None
    frame = pl.DataFrame(
        [{**score.to_row(), "constitution_version": "v1"} for score in scores],
        schema=TABLES["policy_evaluation"].schema,
    )
    pandera_schema(TABLES["policy_evaluation"]).validate(frame)


def test_answers_that_are_read_in_parts_give_the_same_result() -> None:
    rewards = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    whole = evaluate_policies([measured(TWO, JUDGED, *rewards)], SETTINGS)
    answers = TWO.with_columns(pl.Series("reward", rewards))
    parts = [
        Measured.of(*(frame.filter(pl.col("prompt_id").is_in(ids)) for frame in (answers, JUDGED)))
        for ids in (["1"], ["0", "2"])
    ]
    assert evaluate_policies(parts, SETTINGS) == whole
    assert evaluate_policies([], SETTINGS) == []


def test_prompts_count_equally_however_many_opponents_answered_them() -> None:
    three = responses(a=["x", "x"], b=["y", "y"], c=["z"])
    rows = [
        judgement(("a", "b"), 0, ("x", "y"), "01", 0.9),
        judgement(("a", "c"), 0, ("x", "z"), "01", 0.9),
        judgement(("a", "b"), 1, ("x", "y"), "01", 0.1),
    ]
    overall = evaluate_policies([measured(three, judgements(*rows), *[0.0] * 5)], SETTINGS)[0]
    assert (overall.policy, overall.opponent, overall.win_rate, overall.prompts) == ("a", "all", 0.5, 2)


def test_one_prompt_has_no_interval() -> None:
    judged = judgements(judgement(("dpo", "sl"), 0, ("one", "eins"), "01", 0.9))
    one = evaluate_policies([measured(responses(dpo=["one"], sl=["eins"]), judged, 0.0, 1.0)], SETTINGS)
    assert one[0].win_rate_low is None
    assert "100%" in markdown_table(one)
    assert win_rate_plot(one).startswith("![policy](data:image/png")


def test_the_table_names_the_best_first_and_who_beats_whom() -> None:
    def score(policy: str, opponent: str, rate: float) -> PolicyScore:
        return PolicyScore(policy, opponent, 4, rate, rate - 0.1, rate + 0.1, rate, 0.0, 1.5, 1.0, 2.0, 30.0, 0.25)

    shown = markdown_table([score("dpo", "all", 0.7), score("dpo", "sl", 0.7), score("sl", "all", 0.3)])
    lines = shown.splitlines()
    assert lines[2] == "| dpo | 4 | 70% (60%–80%) | 1.500 (1.000–2.000) | 30 | 25.0% |"
    assert lines[-2:] == ["| dpo | – | 70% (60%–80%) |", "| sl | – | – |"]


def test_a_pair_of_policies_has_the_id_of_the_same_two_texts_elsewhere() -> None:
    row = {"prompt_id": "ab", "messages": [{"role": "user", "content": "x"}], "completion_0": "a", "completion_1": "b"}
    from cai_dagster.calls.requests import Completion
    from cai_dagster.inputs.pairs import pair_row

    elsewhere = pair_row("ab", "sl_cai_model", Completion("a", "stop", "0"), Completion("b", "stop", "1"))
    assert pair_to_judge(row).pair_id == elsewhere["pair_id"]
    assert "one.policy < other.policy" in COMPARED
