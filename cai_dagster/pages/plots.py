"""Plots for the UI: PNG images inside markdown. It knows nothing of what is plotted."""

# The libraries below are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import base64
import io
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDES = ("chosen", "rejected")


def line_plot(points: Sequence[tuple[float, float]], x_label: str, y_label: str) -> str:
    """A markdown image of one line through the points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3)  # pyright: ignore
    return _markdown(figure, axes, x_label, y_label)


def calibration_plot(predicted: Sequence[float], label: Sequence[float]) -> str:
    """A markdown image of labels over predictions, one dot a pair, with the diagonal of perfect calibration."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)  # pyright: ignore
    axes.scatter(predicted, label, s=12, alpha=0.6)  # pyright: ignore
    return _markdown(figure, axes, "σ(reward margin)", "P(chosen) of the label")


def reward_plot(rewards: Sequence[tuple[float, float]]) -> str:
    """A markdown image of how the rewards (chosen, rejected) of pairs are distributed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    sides = {name: [pair[side] for pair in rewards if isfinite(pair[side])] for side, name in enumerate(_SIDES)}
    axes.hist(list(sides.values()), bins=20, label=list(sides), histtype="step")  # pyright: ignore
    axes.legend(frameon=False)  # pyright: ignore
    return _markdown(figure, axes, "reward", "pairs")


def interval_plot(
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    x_label: str,
    y_label: str,
) -> str:
    """A markdown image of one value with its interval a name, the first on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1 + 0.35 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = range(len(names), 0, -1)
    below = [value - low for value, (low, _) in zip(values, intervals, strict=True)]
    above = [high - value for value, (_, high) in zip(values, intervals, strict=True)]
    axes.errorbar(values, list(places), xerr=[below, above], fmt="o", capsize=3)  # pyright: ignore
    axes.set_yticks(list(places), names)
    return _markdown(figure, axes, x_label, y_label)


def reliability_plot(bins: Sequence[tuple[float, float, float]]) -> str:
    """A markdown image of agreement over confidence, with the diagonal; a dot's area is its share of the labels.

    `bins` are (mean confidence, agreement with humans, share).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color="grey", linewidth=1)  # pyright: ignore
    confidence, agreement, share = zip(*bins, strict=True)
    axes.scatter(confidence, agreement, s=[20 + 400 * one for one in share], alpha=0.6)  # pyright: ignore
    axes.set_xlim(0.48, 1.02)
    axes.set_ylim(-0.02, 1.02)
    return _markdown(figure, axes, "confidence of the label", "agreement with humans")


def noise_bias_plot(labellers: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A markdown image of one bar a labeller: the parts of its expected squared error, stacked in the order given."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.5 + 0.5 * len(labellers)), layout="constrained")
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for place, (_, parts) in enumerate(labellers):
        left = 0.0
        for part, value in parts.items():
            known = part in colours
            colour = colours.setdefault(part, f"C{len(colours)}")
            axes.barh(place, value, left=left, color=colour, label=None if known else part)  # pyright: ignore
            left += value
    axes.set_yticks(range(len(labellers)), [name for name, _ in labellers])
    figure.legend(loc="outside upper center", ncols=len(colours), fontsize="small")
    return _markdown(figure, axes, "noise and bias of one verdict: expected squared error", "")


def _markdown(figure: "Figure", axes: "Axes", x_label: str, y_label: str) -> str:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=90)
    return f"![{y_label}](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"
