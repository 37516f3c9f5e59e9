"""Plots for the UI: PNG images inside markdown. It knows nothing of what is plotted."""

# altair and its Vega-Lite renderer are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import base64
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

_SIDES = ("chosen", "rejected")
_SCALE = 1.25  # pixels a point of the chart, so that text stays sharp in the UI


def line_plot(points: Sequence[tuple[float, float]], x_label: str, y_label: str) -> str:
    """A markdown image of one line through the points."""
    import altair as alt

    chart = _chart(({"x": x, "y": y} for x, y in points), 480, 220).mark_line(point={"size": 12}, strokeWidth=1.5)
    axes = {"x": _axis("x", x_label), "y": alt.Y("y:Q", title=y_label, scale=alt.Scale(zero=False))}
    return _markdown(chart.encode(**axes), y_label)


def calibration_plot(predicted: Sequence[float], label: Sequence[float]) -> str:
    """A markdown image of labels over predictions, one dot a pair, with the diagonal of perfect calibration."""
    dots = _chart(({"x": x, "y": y} for x, y in zip(predicted, label, strict=True)), 320, 320)
    dots = dots.mark_circle(size=20, opacity=0.6)
    axes = {"x": _axis("x", "σ(reward margin)", 0, 1), "y": _axis("y", "P(chosen) of the label", 0, 1)}
    return _markdown(_diagonal(0) + dots.encode(**axes), "P(chosen) of the label")


def reward_plot(rewards: Sequence[tuple[float, float]]) -> str:
    """A markdown image of how the rewards (chosen, rejected) of pairs are distributed."""
    import altair as alt

    rows = (
        {"reward": pair[side], "side": name}
        for side, name in enumerate(_SIDES)
        for pair in rewards
        if isfinite(pair[side])
    )
    counted = _chart(rows, 480, 220).mark_line(interpolate="step", strokeWidth=1.5)
    axes = {
        "x": alt.X("reward:Q", bin=alt.Bin(maxbins=20), title="reward"),
        "y": alt.Y("count()", title="pairs"),
        "color": alt.Color("side:N", title=None, sort=list(_SIDES)),
    }
    return _markdown(counted.encode(**axes), "pairs")


def interval_plot(
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    x_label: str,
    y_label: str,
) -> str:
    """A markdown image of one value with its interval a name, the first on top."""
    import altair as alt

    rows = (
        {"name": name, "value": value, "low": low, "high": high}
        for name, value, (low, high) in zip(names, values, intervals, strict=True)
    )
    chart = _chart(rows, 400, 30 + 28 * len(names))
    place = alt.Y("name:N", sort=list(names), title=y_label)
    rules = chart.mark_rule().encode(x=alt.X("low:Q", title=x_label), x2="high:Q", y=place)
    dots = chart.mark_circle(size=50, opacity=1).encode(x=_axis("value", x_label), y=place)
    return _markdown(rules + dots, y_label)


def reliability_plot(bins: Sequence[tuple[float, float, float]]) -> str:
    """A markdown image of agreement over confidence, with the diagonal; a dot's area is its share of the labels.

    `bins` are (mean confidence, agreement with humans, share).
    """
    import altair as alt

    dots = _chart(({"x": x, "y": y, "share": share} for x, y, share in bins), 320, 320).mark_circle(opacity=0.6)
    axes = {
        "x": _axis("x", "confidence of the label", 0.5, 1),
        "y": _axis("y", "agreement with humans", 0, 1),
        "size": alt.Size("share:Q", scale=alt.Scale(domain=[0, 1], range=[20, 420]), legend=None),
    }
    return _markdown(_diagonal(0.5) + dots.encode(**axes), "agreement with humans")


def noise_bias_plot(labellers: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A markdown image of one bar a labeller: the parts of its expected squared error, stacked in the order given."""
    import altair as alt

    order = list(dict.fromkeys(part for _, parts in labellers for part in parts))
    rows = (
        {"labeller": name, "part": part, "value": value, "place": order.index(part)}
        for name, parts in labellers
        for part, value in parts.items()
    )
    axes = {
        "x": _axis("value", "noise and bias of one verdict: expected squared error"),
        "y": alt.Y("labeller:N", sort=[name for name, _ in labellers], title=None),
        "color": alt.Color("part:N", sort=order, title=None, legend=alt.Legend(orient="top", columns=2)),
        "order": alt.Order("place:Q"),
    }
    bars = _chart(rows, 400, 30 + 40 * len(labellers)).mark_bar()
    return _markdown(bars.encode(**axes), "noise and bias")


def _chart(rows: Any, width: int, height: int) -> Any:
    import altair as alt

    return alt.Chart(alt.InlineData(values=list(rows)), width=width, height=height)


def _axis(name: str, title: str, low: float | None = None, high: float | None = None) -> Any:
    import altair as alt

    scale: dict[str, Any] = {} if low is None else {"scale": alt.Scale(domain=[low, high])}
    return (alt.Y if name == "y" else alt.X)(f"{name}:Q", title=title, **scale)


def _diagonal(begin: float) -> Any:
    ends = ({"x": end, "y": end} for end in (begin, 1))
    return _chart(ends, 320, 320).mark_line(color="grey", strokeWidth=1).encode(x="x:Q", y="y:Q")


def _markdown(chart: Any, alternative: str) -> str:
    """White behind the chart: the UI may be dark, and an image cannot know."""
    import vl_convert

    specification = chart.configure(background="white", font="sans-serif", padding=8).to_dict()
    png: bytes = vl_convert.vegalite_to_png(specification, scale=_SCALE)
    return f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"
