"""What a change of one principle costs, in theory: the formulas of docs/incremental-backfill.md, as code.

`p` is the chance that a draw changes; a row that changed in round i pays for round i and all later ones.
"""

import math
from collections.abc import Sequence


def moved_by_edit(weights: Sequence[float], edited: int) -> float:
    """The text of a principle changes: those draws that it wins."""
    return weights[edited] / sum(weights)


def moved_by_addition(weights: Sequence[float], added: float) -> float:
    """A principle of this weight is added: those draws that it wins from now on."""
    return added / (sum(weights) + added)


def moved_by_reweighting(weights: Sequence[float], changed: int, weight: float) -> float:
    """A principle gets another weight: the difference of its shares, for no other draw moves."""
    others = sum(weights) - weights[changed]
    return abs(weight / (others + weight) - weights[changed] / (others + weights[changed]))


def changed_by_round(p: float, number: int) -> float:
    """Share of the rows that are others by round i: 1 − (1 − p)^i."""
    return 1 - (1 - p) ** number


def paid_share(p: float, rounds: int) -> tuple[float, float]:
    """Share of the calls of `rounds` rounds that are paid for, and its standard deviation for one row.

    The first changed round is i with probability (1 − p)^(i−1)·p; then n − i + 1 of n rounds are paid for.
    """
    chances = [(1 - p) ** (first - 1) * p for first in range(1, rounds + 1)]
    shares = [(rounds - first + 1) / rounds for first in range(1, rounds + 1)]
    mean = sum(chance * share for chance, share in zip(chances, shares, strict=True))
    square = sum(chance * share**2 for chance, share in zip(chances, shares, strict=True))
    return mean, math.sqrt(square - mean**2)


def among_the_first(weights: Sequence[float], principle: int, count: int) -> float:
    """Chance that a principle is among the `count` drawn without replacement.

    Each principle arrives after an exponential time with its weight as rate, and the first `count` to arrive are
    drawn: ∫ w·e^(−wt) · P(fewer than `count` of the others arrived by t) dt, by Simpson's rule over u = e^(−wt).
    """
    steps = 2_000
    total = 0.0
    for step in range(steps + 1):
        u = min(max(step / steps, 1e-12), 1 - 1e-12)
        time = -math.log(u) / weights[principle]
        arrived = [1.0]  # arrived[j]: probability that j of the others have arrived
        for other, weight in enumerate(weights):
            if other != principle:
                chance = 1 - math.exp(-weight * time)
                later = [*(value * (1 - chance) for value in arrived), 0.0]
                arrived = [value + (arrived[j - 1] * chance if j else 0.0) for j, value in enumerate(later)][:count]
        factor = 1 if step in {0, steps} else 4 if step % 2 else 2
        total += factor * sum(arrived[:count])
    return total / (3 * steps)
