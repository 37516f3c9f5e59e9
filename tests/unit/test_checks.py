import math
from typing import Any

import polars as pl
import pytest

from cai_dagster import measurements
from cai_dagster.checks import CHECKS, Check
from cai_dagster.measurements import (
    EXAMPLES,
    Measurement,
    Tables,
    judge_agreement,
    label_mass,
    length_ratio,
    position_bias,
    principle_coverage,
    rejected_share,
    unchanged_revisions,
    unfinished_completions,
)
from cai_dagster.settings import ChecksSettings
from cai_dagster.tables import TABLES

DEFAULTS: dict[Any, Any] = {pl.String: "ab", pl.Int64: 0, pl.Float64: 0.75}


def frame(table: str, *rows: dict[str, Any]) -> pl.DataFrame:
    """Rows of a table; columns that a row does not name have some value of their type."""
    schema = TABLES[table].schema
    defaults = {name: DEFAULTS.get(dtype, []) for name, dtype in schema.items()}
    return pl.DataFrame([{**defaults, **row} for row in rows], schema=schema)


def tables(rows: pl.DataFrame, rejected: pl.DataFrame | None = None, principles: pl.DataFrame | None = None) -> Tables:
    return Tables(
        rows,
        frame("rejected_rows") if rejected is None else rejected,
        frame("constitution") if principles is None else principles,
    )


def judgement(pair_id: str, order: str, p_a: float, p_b: float, principle_id: str = "ab") -> dict[str, Any]:
    return {
        "pair_id": pair_id,
        "principle_id": principle_id,
        "order": order,
        "logp_a": math.log(p_a),
        "logp_b": math.log(p_b),
    }


def test_rejected_share_is_of_all_rows() -> None:
    rejected = frame("rejected_rows", {"row_id": "x", "reason": "empty_completion: none"}, {"row_id": "y"})
    measured = rejected_share(tables(frame("prompts", {}, {}, {}), rejected))
    assert (measured.value, measured.rows) == (0.4, 5)
    assert measured.examples[0] == {"row_id": "x", "reason": "empty_completion: none"}
    assert [example["row_id"] for example in measured.examples] == ["x", "y"]


def test_rejected_share_is_all_where_every_row_was_rejected() -> None:
    assert rejected_share(tables(frame("prompts"), frame("rejected_rows", {}, {}))).value == 1


def test_unfinished_completions_of_one_column() -> None:
    rows = frame(
        "initial_responses",
        {"prompt_id": "a", "finish_reason": "stop"},
        {"prompt_id": "b", "finish_reason": "length", "sample": 3},
        {"prompt_id": "c", "finish_reason": "stop"},
    )
    measured = unfinished_completions(tables(rows))
    assert measured == Measurement(pytest.approx(1 / 3), 3, [{"prompt_id": "b", "sample": 3}])


def test_unfinished_completions_of_two_columns_are_counted_each() -> None:
    """Three of four completions, in two rows."""
    rows = frame(
        "revision_rounds",
        {"prompt_id": "a", "round": 1, "critique_finish_reason": "length", "revision_finish_reason": "length"},
        {"prompt_id": "a", "round": 2, "critique_finish_reason": "stop", "revision_finish_reason": "length"},
        {"prompt_id": "b", "round": 1, "critique_finish_reason": "stop", "revision_finish_reason": "stop"},
    )
    measured = unfinished_completions(tables(rows))
    assert measured.value == pytest.approx(3 / 6)
    assert measured.rows == 3
    assert measured.examples == [{"prompt_id": "a", "sample": 0, "round": number} for number in (1, 2)]


def test_unchanged_revisions_ignore_white_space_at_the_ends_only() -> None:
    rows = frame(
        "revision_rounds",
        {"prompt_id": "a", "response": "one two", "revision": " one two\n"},
        {"prompt_id": "b", "response": "one two", "revision": "one  two"},
        {"prompt_id": "c", "response": "one two", "revision": "One two"},
        {"prompt_id": "d", "response": "x", "revision": "x"},
    )
    measured = unchanged_revisions(tables(rows))
    assert (measured.value, measured.rows) == (0.5, 4)
    assert [example["prompt_id"] for example in measured.examples] == ["a", "d"]


def test_label_mass_is_the_mean_probability_of_both_letters() -> None:
    rows = frame("judgements", judgement("a", "01", 0.6, 0.3), judgement("b", "10", 0.1, 0.2))
    measured = label_mass(tables(rows))
    assert (measured.value, measured.rows) == (pytest.approx(0.6), 2)
    assert measured.examples == [
        {"pair_id": "b", "principle_id": "ab", "order": "10", "mass": pytest.approx(0.3)},
        {"pair_id": "a", "principle_id": "ab", "order": "01", "mass": pytest.approx(0.9)},
    ]


def test_position_bias_is_the_same_letter_in_both_orders() -> None:
    """a: (A) twice. b: (B) twice. c: the same text twice. d under y: (A) twice, under x: not. e: one order only."""
    rows = frame(
        "judgements",
        *(judgement("a", order, 0.9, 0.1) for order in ("01", "10")),
        *(judgement("b", order, 0.3, 0.6) for order in ("01", "10")),
        *(judgement("c", order, *p) for order, p in (("01", (0.9, 0.1)), ("10", (0.1, 0.9)))),
        *(judgement("d", order, 0.9, 0.1, "y") for order in ("01", "10")),
        *(judgement("d", order, *p, "x") for order, p in (("01", (0.1, 0.9)), ("10", (0.9, 0.1)))),
        judgement("e", "01", 0.9, 0.1),
    )
    measured = position_bias(tables(rows))
    assert (measured.value, measured.rows) == (pytest.approx(3 / 5), 5)
    examples = {(one["pair_id"], one["principle_id"], one["says_a"]) for one in measured.examples}
    assert examples == {("a", "ab", True), ("b", "ab", False), ("d", "y", True)}


def test_a_verdict_that_prefers_no_letter_is_no_position_bias() -> None:
    rows = frame("judgements", *(judgement("a", order, 0.5, 0.5) for order in ("01", "10")))
    assert position_bias(tables(rows)).value == 0


def test_position_bias_cannot_be_measured_in_one_order() -> None:
    rows = frame("judgements", judgement("a", "01", 0.9, 0.1), judgement("b", "01", 0.9, 0.1))
    assert position_bias(tables(rows)) == Measurement(None, 0, [])


def test_judge_agreement_is_the_lower_end_of_what_one_principle_gives() -> None:
    rows = frame(
        "judge_calibration",
        {"slice": "all", "agreement": 0.9, "agreement_low": 0.8, "pairs": 40},
        {"slice": "one_principle", "agreement": 0.6, "agreement_low": 0.45, "pairs": 40},
        {"slice": "principle", "slice_value": "kind", "agreement": 0.3, "agreement_low": 0.2, "pairs": 20},
    )
    measured = judge_agreement(tables(rows))
    assert (measured.value, measured.rows) == (0.45, 40)
    assert [one["slice"] for one in measured.examples] == ["principle", "one_principle", "all"]
    single = frame("judge_calibration", {"slice": "one_principle", "agreement_low": None, "pairs": 1})
    assert judge_agreement(tables(single)).value == 0


def test_principle_coverage_names_the_principles_never_drawn() -> None:
    principles = frame(
        "constitution", *({"principle_id": one * 2, "slug": f"slug-{one}", "weight": 1.0} for one in "abcd")
    )
    rows = frame("revision_rounds", *({"principle_id": one} for one in ("aa", "aa", "cc", "ee") * 5))
    measured = principle_coverage(tables(rows, principles=principles))
    assert measured == Measurement(0.5, 4, [{"slug": "slug-b"}, {"slug": "slug-d"}])


def test_principle_coverage_says_nothing_of_principles_that_chance_may_have_missed() -> None:
    weights = {"a": 8.0, "b": 1.0, "c": 1.0}
    principles = frame(
        "constitution", *({"principle_id": one * 2, "slug": one, "weight": weight} for one, weight in weights.items())
    )
    assert principle_coverage(tables(frame("revision_rounds"), principles=principles)).value is None
    rows = frame("revision_rounds", *({"principle_id": "aa"} for _ in range(20)))
    assert principle_coverage(tables(rows, principles=principles)) == Measurement(1.0, 1, [])


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text} for text in texts]


def test_length_ratio_is_of_mean_characters_of_the_last_turns() -> None:
    rows = frame(
        "preference_pairs",
        {"pair_id": "a", "chosen": turns("x" * 10), "rejected": turns("x" * 9)},
        {"pair_id": "b", "chosen": turns("not this", "é🙂"), "rejected": turns("x" * 15)},
    )
    measured = length_ratio(tables(rows))
    assert (measured.value, measured.rows) == (0.5, 2)
    assert measured.examples == [
        {"pair_id": "b", "chosen": 2, "rejected": 15},
        {"pair_id": "a", "chosen": 10, "rejected": 9},
    ]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.name}-{check.table}")
def test_every_check_measures_an_empty_table(check: Check) -> None:
    measured = getattr(measurements, check.name)(tables(frame(check.table)))
    assert measured.value in (None, 0)
    assert (measured.rows, measured.examples) == (0, [])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.name}-{check.table}")
def test_every_check_measures_its_own_table_and_shows_a_few_rows(check: Check) -> None:
    """With values that are the worst there are, a hundred times."""
    worst: dict[str, Any] = {name: "length" for name in TABLES[check.table].schema.names() if "finish_reason" in name}
    if check.table == "preference_pairs":
        worst |= {"chosen": turns("text"), "rejected": turns("text")}
    if check.table == "judgements":
        worst |= {"logp_a": -1.0, "logp_b": -2.0}
    if check.table == "judge_calibration":
        worst |= {"slice": "one_principle", "agreement_low": 0.0}
    rows = frame(check.table, *({**worst, "order": order} for order in ("01", "10") for _ in range(50)))
    principles = frame("constitution", *({"principle_id": f"c{number:x}"} for number in range(20)))
    rejected = frame("rejected_rows", *({} for _ in range(100)))
    measured = getattr(measurements, check.name)(tables(rows, rejected, principles))
    assert measured.value is not None
    assert len(measured.examples) == EXAMPLES


def test_each_check_is_on_a_table_once_and_has_bounds_in_the_settings() -> None:
    places = [(check.name, check.table) for check in CHECKS]
    assert len(set(places)) == len(places)
    assert {check.name for check in CHECKS} == set(ChecksSettings.model_fields)
    assert {check.table for check in CHECKS} <= set(TABLES)
    assert all(check.description and check.advice for check in CHECKS)


def test_the_advice_on_rejected_rows_names_the_table() -> None:
    for check in CHECKS:
        if check.name == "rejected_share":
            assert f"'{check.table}'" in check.advice
