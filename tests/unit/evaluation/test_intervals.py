"""How sure a mean is."""

import numpy as np
import pytest

from cai_dagster.evaluation.intervals import mean_interval


def test_the_interval_covers_the_true_share_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        low, high = mean_interval((generator.random(80) < 0.7).astype(float), 400, seed)
        assert low is not None
        assert high is not None
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_values_of_one_cluster_are_resampled_together() -> None:
    """Twenty clusters whose four values are all the same are evidence of twenty, not of eighty."""
    right = np.repeat(np.random.default_rng(0).random(20) < 0.5, 4).astype(float)
    alone = mean_interval(right, 1000, 0)
    together = mean_interval(right, 1000, 0, [str(number // 4) for number in range(80)])
    assert together[1] is not None
    assert alone[1] is not None
    assert together[1] - together[0] > 1.6 * (alone[1] - alone[0])


def test_an_interval_is_seeded_holds_the_mean_and_narrows_with_the_values() -> None:
    few, many = (np.random.default_rng(1).random(size) for size in (10, 1_000))
    assert mean_interval(few, 500, 5) == mean_interval(few, 500, 5)
    widths: list[float] = []
    for values in (few, many):
        low, high = mean_interval(values, 500, 5)
        assert low is not None
        assert high is not None
        assert low < values.mean() < high
        widths.append(high - low)
    assert widths[0] == pytest.approx(10 * widths[1], rel=0.5)


def test_one_value_and_one_cluster_have_no_interval() -> None:
    assert mean_interval(np.array([1.0]), 200, 5) == (None, None)
    assert mean_interval(np.array([1.0, 0.0]), 200, 5, list("aa")) == (None, None)
