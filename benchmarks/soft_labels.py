"""Do soft labels recover a reward better than hard ones? `python -m benchmarks.soft_labels` measures it.

Pairs are drawn from a known linear reward, P(chosen) = σ(w·(x_c − x_r)); a simulated feedback model sees the log odds
through a known error and labels each pair. The same model is then fitted to soft labels, to the same labels made hard,
and to one vote drawn from the true probability (one annotator, unbiased), by the loss of `reward_modelling` with an L2
penalty that a held-out fifth of the same labels chooses. Writes the plot of docs/reward-models.md, and prints a table.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats

from cai_dagster.project import PROJECT
from cai_dagster.training.reward_modelling import soft_label_loss

PLOT = PROJECT / "docs" / "images" / "soft-labels.svg"

FEATURES = 16
LOG_ODDS_SPREAD = 1.5  # standard deviation of the true log odds: people are about 80 % sure of the better one
SIZES = (50, 100, 200, 400, 800, 1600, 3200)
SEEDS = 40
TEST_PAIRS = 4000
PENALTIES = tuple(10.0**power for power in range(-6, 1))

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class FeedbackModel:
    """How a simulated feedback model sees the true log odds z of pairs with feature differences d."""

    name: str
    meaning: str
    sees: Callable[[Array, Array, np.random.Generator], Array]


def _bias(differences: Array) -> Array:
    """A preference that is not in the reward: of the first feature, say length."""
    return 2 * LOG_ODDS_SPREAD / np.sqrt(FEATURES) * differences[:, 0]


FEEDBACK_MODELS = (
    FeedbackModel("exact", "z", lambda z, _d, _generator: z),
    FeedbackModel("noisy", "z + noise of spread 1.5", lambda z, _d, generator: z + generator.normal(0, 1.5, len(z))),
    FeedbackModel("very noisy", "z + noise of spread 5", lambda z, _d, generator: z + generator.normal(0, 5, len(z))),
    FeedbackModel("overconfident", "4·z", lambda z, _d, _generator: 4 * z),
    FeedbackModel(
        "overconfident, noisy",
        "4·(z + noise of spread 1.5)",
        lambda z, _d, generator: 4 * (z + generator.normal(0, 1.5, len(z))),
    ),
    FeedbackModel("underconfident", "z/10", lambda z, _d, _generator: z / 10),
    FeedbackModel("biased", "z + a preference for one feature", lambda z, d, _generator: z + _bias(d)),
    FeedbackModel(
        "sure when wrong",
        "4·z of a tenth of the pairs turned round",
        lambda z, _d, generator: 4 * z * np.where(generator.random(len(z)) < 0.1, -1, 1),
    ),
)
LABELS = ("soft", "hard", "one vote")


@dataclass(frozen=True)
class Recovery:
    """How well one fitted reward recovers the true one on new pairs.

    `accuracy`: share of pairs whose truly better completion has the higher reward. `excess_loss`: cross entropy
    against the true probabilities, less their entropy, in nats: 0 for the true reward, calibrated.
    """

    accuracy: float
    excess_loss: float


def fit(differences: Array, labels: Array, penalty: float) -> Array:
    """Weights that minimise mean soft-label loss + penalty·|w|²."""

    def objective(weights: Array) -> tuple[float, Array]:
        margin = differences @ weights
        residual = _sigmoid(margin) - labels
        loss = float(np.mean(soft_label_loss(margin, labels))) + penalty * float(weights @ weights)
        return loss, differences.T @ residual / len(labels) + 2 * penalty * weights

    start = np.zeros(differences.shape[1])
    return optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x


def fit_with_chosen_penalty(differences: Array, labels: Array) -> Array:
    """Choose the penalty on a held-out fifth of the same labels, then fit to all of them."""
    held_out = max(2, len(labels) // 5)
    kept, left = slice(held_out, None), slice(0, held_out)

    def held_out_loss(penalty: float) -> float:
        weights = fit(differences[kept], labels[kept], penalty)
        return float(np.mean(soft_label_loss(differences[left] @ weights, labels[left])))

    return fit(differences, labels, min(PENALTIES, key=held_out_loss))


def recover(model: FeedbackModel, size: int, seed: int) -> dict[str, Recovery]:
    """One world: a true reward, `size` pairs, and a fit to each kind of label of the same pairs."""
    generator = np.random.default_rng((seed, size))
    weights = generator.normal(0, 1, FEATURES)
    weights *= LOG_ODDS_SPREAD / np.linalg.norm(weights)
    differences, new = (generator.normal(0, 1, (number, FEATURES)) for number in (size, TEST_PAIRS))
    log_odds = differences @ weights
    probability = _sigmoid(model.sees(log_odds, differences, generator))
    labels = {
        "soft": probability,
        "hard": (probability > 0.5).astype(np.float64),
        "one vote": (generator.random(size) < _sigmoid(log_odds)).astype(np.float64),
    }
    return {name: _measure(fit_with_chosen_penalty(differences, label), new, weights) for name, label in labels.items()}


def _measure(fitted: Array, new: Array, true: Array) -> Recovery:
    margin, true_margin = new @ fitted, new @ true
    truth = _sigmoid(true_margin)
    excess = soft_label_loss(margin, truth) - soft_label_loss(true_margin, truth)
    return Recovery(float(np.mean((margin > 0) == (true_margin > 0))), float(np.mean(excess)))


def _sigmoid(values: Array) -> Array:
    return np.exp(-np.logaddexp(0, -values))


Results = dict[str, dict[int, dict[str, list[Recovery]]]]


def measure(seeds: int = SEEDS, sizes: Sequence[int] = SIZES) -> Results:
    """Feedback model → number of pairs → kind of label → one recovery a seed."""
    results: Results = {}
    for model in FEEDBACK_MODELS:
        for size in sizes:
            worlds = [recover(model, size, seed) for seed in range(seeds)]
            results.setdefault(model.name, {})[size] = {name: [world[name] for world in worlds] for name in LABELS}
        print(f"{model.name} done", flush=True)
    return results


def difference(recovered: dict[str, list[Recovery]], number: str) -> tuple[float, float]:
    """Mean over the seeds of soft less hard, and half of its 95 % interval (Student's t, same worlds)."""
    worlds = zip(recovered["soft"], recovered["hard"], strict=True)
    gaps = [getattr(soft, number) - getattr(hard, number) for soft, hard in worlds]
    half = float(stats.t.ppf(0.975, len(gaps) - 1) * stats.sem(gaps))
    return float(np.mean(gaps)), half


def table(results: Results) -> str:
    """Accuracy and excess loss at three sizes, and what is better where."""
    shown = [SIZES[1], SIZES[3], SIZES[5]]
    lines = [
        "| feedback model sees | pairs | accuracy soft / hard / one vote | soft − hard | excess loss soft / hard / one "
        "vote | soft − hard |",
        "|---|---|---|---|---|---|",
    ]
    for model in FEEDBACK_MODELS:
        for size in shown:
            recovered = results[model.name][size]
            cells = [f"{model.name}: {model.meaning}", f"{size:,}"]
            for number in ("accuracy", "excess_loss"):
                means = (float(np.mean([getattr(one, number) for one in recovered[name]])) for name in LABELS)
                cells.append(" / ".join(f"{mean:.3f}" for mean in means))
                cells.append(_verdict(*difference(recovered, number), larger_is_better=number == "accuracy"))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _verdict(gap: float, half: float, larger_is_better: bool) -> str:
    better = "no difference"
    if abs(gap) > half:
        better = "**soft**" if (gap > 0) == larger_is_better else "**hard**"
    return f"{gap:+.3f} ± {half:.3f} {better}"


def plot(results: Results) -> None:
    """Both numbers over the number of pairs, a column a feedback model."""
    import altair as alt
    import vl_convert

    colour = alt.Color("label:N", sort=list(LABELS), title=None, scale=alt.Scale(range=["#1f77b4", "#d62728", "grey"]))
    dash = alt.StrokeDash("label:N", sort=list(LABELS), title=None, scale=alt.Scale(range=[[1, 0], [5, 3], [2, 2]]))
    x = alt.X("pairs:Q", scale=alt.Scale(type="log"), axis=alt.Axis(values=[100, 1000], format="~s"), title="pairs")
    axis, grid = alt.Axis(tickCount=5), list[Any]()
    for number, title, scale in (
        ("accuracy", "accuracy on new pairs", alt.Scale(zero=False)),
        # Below the lower bound a fitted reward is as good as the true one.
        ("excess_loss", "excess loss, nats", alt.Scale(type="log", domain=[1e-4, 20], clamp=True)),
    ):
        shown = [
            {"model": name, "pairs": size, "label": label, **_with_band(recovered[label], number)}
            for name, by_size in results.items()
            for size, recovered in by_size.items()
            for label in LABELS
        ]
        base = alt.Chart(width=150, height=170).encode(x=x, color=colour)
        y = {"scale": scale, "title": title, "axis": axis}
        band = base.mark_area(opacity=0.15, clip=True).encode(y=alt.Y("low:Q", **y), y2="high:Q")
        line = base.mark_line(clip=True).encode(y=alt.Y("mean:Q", **y), strokeDash=dash)
        columns = alt.Column("model:N", sort=list(results), title=None)
        grid.append((band + line).facet(data=alt.InlineData(values=shown), column=columns))
    PLOT.parent.mkdir(exist_ok=True)
    specification = alt.vconcat(*grid).configure(background="white", font="sans-serif").to_dict()
    PLOT.write_text(vl_convert.vegalite_to_svg(specification), encoding="utf-8")


def _with_band(recovered: Sequence[Recovery], number: str) -> dict[str, float]:
    """The mean of a number over the seeds, and the ends of its 95 % interval."""
    values = [getattr(one, number) for one in recovered]
    mean, error = float(np.mean(values)), 1.96 * float(stats.sem(values))
    return {"mean": mean, "low": mean - error, "high": mean + error}


def main() -> None:
    """Measure, write the plot and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    results = measure(seeds)
    plot(results)
    print(f"{seeds} seeds; means, and soft − hard with its 95 % interval over the seeds.\n\n{table(results)}")


if __name__ == "__main__":
    main()
