"""Charts inside a page: SVG, drawn when the page is made, with their numbers as a table beside.

Altair describes a chart and vl-convert draws it in this process; neither reads anything from the network, and the page
needs no script. Colours are the variables of page.css, so that a chart follows the page into the dark. It knows nothing
of what is drawn.
"""

# The libraries below are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import polars as pl
from markupsafe import Markup

WIDTH, HEIGHT = 265, 150  # of the plot; with its axis it just fits a phone, so that its text keeps its size there
PADDING = {"left": 24, "right": 16, "top": 5, "bottom": 5}  # a reader's font may be wider than the one measured here
COLOURS = ["var(--chart-1)", "var(--chart-2)"]
_ELEMENTS = frozenset({"svg", "g", "path", "line", "rect", "text", "tspan", "defs", "clipPath", "circle", "title"})
_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": "transparent"},
    "bar": {"color": COLOURS[0]},
    "line": {"color": COLOURS[0]},
    "point": {"color": COLOURS[0], "filled": True, "size": 60},
    "rule": {"color": "var(--text)"},
    "axis": {
        "labelColor": "var(--text)",
        "titleColor": "var(--text)",
        "domainColor": "var(--quiet)",
        "tickColor": "var(--quiet)",
        "gridColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 160,
        "labelSeparation": 8,
    },
    "header": {"labelColor": "var(--text)", "labelFontSize": 12, "title": None},
    "legend": {"labelColor": "var(--text)", "labelFontSize": 12, "orient": "top", "title": None},
}


@dataclass(frozen=True)
class Chart:
    """A drawing with what it shows in words, and its numbers: `columns` and `rows` of text."""

    svg: Markup
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def coloured(kinds: list[str]) -> Any:
    """The encoding of the column `kind` as colour."""
    import altair as alt

    return alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=COLOURS[: len(kinds)]))


def chart_of(frame: pl.DataFrame) -> Any:
    """An Altair chart of the rows."""
    import altair as alt

    return alt.Chart(data_of(frame))


def data_of(frame: pl.DataFrame) -> Any:
    """The rows inside the chart: a number that is not finite is no point."""
    import altair as alt

    return alt.Data(values=[{name: _finite(value) for name, value in row.items()} for row in frame.to_dicts()])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_data(chart: Any, frame: pl.DataFrame) -> Any:
    """A chart of several layers with the rows that they share."""
    chart.data = data_of(frame)
    return chart


def drawn(
    chart: Any, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], height: int = HEIGHT
) -> Chart:
    """Draw an Altair chart; `columns` and `rows` are its numbers, `height` that of the plot in pixels."""
    import vl_convert

    specification: dict[str, Any] = chart.to_dict()
    if "facet" not in specification:
        specification |= {
            "width": WIDTH + 80,
            "height": height + 60,
            "autosize": {"type": "fit", "contains": "padding"},
        }
    specification |= {"config": _CONFIG, "padding": PADDING}
    return Chart(_safe(vl_convert.vegalite_to_svg(specification)), caption, columns, rows)


def _safe(svg: str) -> Markup:
    """The drawing, which is the one thing that enters the page as markup: it must be shapes and text, nothing else.

    Its own labels of parts are left out: the page says in words what a chart shows.
    """
    svg = re.sub(r' (?:role|aria-[a-z]+)="[^"]*"', "", svg)
    for element in ElementTree.fromstring(svg).iter():  # noqa: S314 - made in this process a moment ago
        kind = element.tag.rsplit("}", 1)[-1]
        if kind not in _ELEMENTS or any(_is_active(name, value) for name, value in element.attrib.items()):
            raise ValueError(f"a chart has an element <{kind}> {element.attrib}")
    return Markup(svg)  # noqa: S704 - just looked at


def _is_active(name: str, value: str) -> bool:
    return name.startswith("on") or name.endswith("href") or "url(http" in value
