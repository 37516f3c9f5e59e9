"""Plots for the UI: PNG images inside markdown. It knows nothing of what is plotted."""

# The libraries below are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


def _markdown(figure: "Figure", axes: "Axes", x_label: str, y_label: str) -> str:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=90)
    return f"![{y_label}](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"
