"""The formulas of labels: their values, and that the polars and the SQL of one formula are the same function."""

import math
import random

import duckdb
import polars as pl
import pytest

from cai_dagster.judging import label_statistics as statistics

COLUMNS = ("pair_id", "principle_id", "order", "logp_a", "logp_b")


def judged(*rows: tuple[str, str, str, float, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


@pytest.fixture
def many() -> pl.DataFrame:
    """Judgements of many kinds: certain, undecided, ties, in one order or both, with impossible letters."""
    generator = random.Random(7)
    logps = (-0.0, -0.1, -0.69, -2.5, -30.0, -800.0, -math.inf)
    return judged(
        *(
            (f"p{pair}", f"c{principle}", order, generator.choice(logps), generator.choice(logps))
            for pair in range(60)
            for principle in range(3)
            for order in generator.choice([("01",), ("01", "10"), ("10",)])
        )
    )


def in_sql(frame: pl.DataFrame, query: str) -> pl.DataFrame:
    with duckdb.connect() as connection:
        connection.register("judgements", frame)
        return connection.execute(query).pl()


@pytest.mark.parametrize(
    ("logp_a", "logp_b", "p"),
    [
        (math.log(0.6), math.log(0.2), 0.75),
        (math.log(0.2), math.log(0.6), 0.25),
        (-1.0, -1.0, 0.5),
        (-0.1, -math.inf, 1.0),
        (-math.inf, -0.1, 0.0),
        (-900.0, -0.1, 0.0),
        (-math.inf, -math.inf, None),
    ],
)
def test_p_of_completion_0_is_that_of_the_letter_it_was_shown_as(logp_a: float, logp_b: float, p: float | None) -> None:
    first, second = (statistics.p_completion_0_of(logp_a, logp_b, order) for order in ("01", "10"))
    if p is None:
        assert first is second is None
    else:
        assert first == pytest.approx(p)
        assert second == pytest.approx(1 - p)


def test_one_judgement_a_frame_and_sql_have_the_same_p(many: pl.DataFrame) -> None:
    verdicts = statistics.verdicts(many.lazy()).collect()
    one_by_one = [
        p
        for row in many.iter_rows(named=True)
        if (p := statistics.p_completion_0_of(row["logp_a"], row["logp_b"], row["order"])) is not None
    ]
    sql = in_sql(many, f"SELECT {statistics.P_COMPLETION_0} AS p_0 FROM judgements WHERE {statistics.IS_VERDICT}")
    assert 0 < len(one_by_one) < many.height
    assert verdicts["p_0"].to_list() == pytest.approx(one_by_one, abs=1e-15)
    assert sorted(sql["p_0"]) == pytest.approx(sorted(one_by_one), abs=1e-15)


def test_the_mass_is_the_sum_of_both_probabilities(many: pl.DataFrame) -> None:
    expected = [statistics.label_mass_of(a, b) for a, b in many.select("logp_a", "logp_b").iter_rows()]
    assert many.select(statistics.label_mass().alias("mass"))["mass"].to_list() == pytest.approx(expected)
    assert sorted(in_sql(many, f"SELECT {statistics.LABEL_MASS} AS mass FROM judgements")["mass"]) == pytest.approx(
        sorted(expected)
    )


def test_the_same_letter_in_both_orders_is_position_bias_in_frames_and_in_sql(many: pl.DataFrame) -> None:
    finite = many.filter(pl.col("logp_a").is_finite(), pl.col("logp_b").is_finite())
    frame = statistics.same_letter(finite.lazy()).collect().sort("pair_id", "principle_id")
    sql = in_sql(finite, statistics.SAME_LETTER).sort("pair_id", "principle_id")
    assert frame.select("pair_id", "principle_id", "same").equals(sql.select("pair_id", "principle_id", "same"))
    assert {True, False} == set(frame["same"])
    both = judged(("p", "c", "01", -0.1, -3.0), ("p", "c", "10", -0.1, -3.0))
    assert statistics.same_letter(both.lazy()).collect().to_dicts() == [
        {"pair_id": "p", "principle_id": "c", "says_a": True, "same": True}
    ]


def test_orders_are_averaged_in_probability_and_not_in_log_probability() -> None:
    two = judged(("p", "c", "01", math.log(0.9), math.log(0.1)), ("p", "c", "10", math.log(0.4), math.log(0.6)))
    averaged = statistics.averaged_over_orders(statistics.verdicts(two.lazy())).collect()
    assert averaged["p_0"].to_list() == pytest.approx([(0.9 + 0.6) / 2])


def test_agreement_counts_pairs_of_verdicts() -> None:
    p = pl.DataFrame(
        [("p", "a", 0.9), ("p", "a", 0.8), ("p", "b", 0.7), ("p", "b", 0.2), ("p", "c", 0.1), ("q", "a", 0.9)],
        schema=["pair_id", "principle_id", "p"],
        orient="row",
    )
    assert sorted(statistics.orders_agree(p, "p")) == [False, True]
    # Principles a: 0.85, b: 0.45, c: 0.1: of three, two name completion_1, so one of three pairs agrees.
    assert statistics.principles_agree(p, "p").to_list() == pytest.approx([1 / 3])


def test_a_tie_is_half_a_win_and_undecided() -> None:
    frame = pl.DataFrame({"p_0": [0.5, 0.51, 0.56, 0.2]})
    shown = frame.select(statistics.win().alias("win"), statistics.undecided().alias("undecided"))
    assert shown["win"].to_list() == [0.5, 1.0, 1.0, 0.0]
    assert shown["undecided"].to_list() == [True, True, False, False]
