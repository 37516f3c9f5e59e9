"""Intervals: how sure a mean is, by the percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

It knows nothing of what the numbers mean.
"""

# scipy is typed in part only.
# pyright: reportMissingTypeStubs=false

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Interval = tuple[float, float] | tuple[None, None]
_BATCH = 100  # resamples held in memory at once


def mean_interval(
    values: "NDArray[np.float64]",
    resamples: int,
    seed: int,
    clusters: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> Interval:
    """The interval of mean(values). Values of one cluster (a prompt with its pairs) are resampled together.

    Where all values are the same the interval has no width: that is the bootstrap's, and too narrow for few values.
    (None, None) where there is a single value or cluster.
    """
    from scipy import stats

    names = np.arange(len(values)) if clusters is None else np.array(clusters)
    number = np.unique(names, return_inverse=True)[1]
    sums, counts = np.bincount(number, weights=values), np.bincount(number).astype(np.float64)
    if len(sums) < 2:
        return None, None

    def mean(sums: Any, counts: Any, axis: int) -> Any:
        return np.sum(sums, axis=axis) / np.sum(counts, axis=axis)

    library: Any = stats
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = library.bootstrap(
            (sums, counts),
            mean,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=_BATCH,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(interval.low), float(interval.high)
