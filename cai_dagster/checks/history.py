"""The results of checks over versions: a line a check, a cell a version, and a chart of each check with its bound."""

# Altair is typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from cai_dagster.checks.declarations import CHECKS
from cai_dagster.checks.outcomes import LatestResult, Outcome, limits_in, result_of
from cai_dagster.constitution.versions import natural_order
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.newest import newest_check_results, newest_materializations
from cai_dagster.pages.html import render_part
from cai_dagster.pages.svg_charts import Chart, data_of, drawn
from cai_dagster.tables.registry import TABLES

MOST_VERSIONS = 20  # the latest by name, and those that a page is about
_OF_VERSIONS = "constitution_version IS NOT NULL"


@dataclass(frozen=True)
class CheckLine:
    """One check over the versions: its result for each, None where it never ran."""

    name: str
    results: Sequence[LatestResult | None]

    @property
    def measured(self) -> list[LatestResult]:
        """The results with a value."""
        return [result for result in self.results if result is not None and result.value is not None]


@dataclass(frozen=True)
class CheckHistory:
    """The checks of all versions, in the order of the graph."""

    versions: Sequence[str]
    lines: Sequence[CheckLine]


def read_history(lake: Lake, about: Sequence[str], snapshot_id: int | None = None) -> CheckHistory:
    """The history as of a snapshot, or now; the versions that a page is about are always among those shown."""
    newest = (newest_check_results(_OF_VERSIONS, snapshot_id), newest_materializations(_OF_VERSIONS, snapshot_id))
    results, accounts = (lake.select(query, {}).to_dicts() for query in newest)
    return history_of(results, accounts, about)


def history_of(
    results: Iterable[Mapping[str, Any]], accounts: Iterable[Mapping[str, Any]], about: Sequence[str]
) -> CheckHistory:
    """The history from each check's newest result and each table's newest account."""
    now = {(row["table_name"], row["constitution_version"]): row["data_version"] for row in accounts}
    read = [result_of(row, now.get((row["table_name"], row["constitution_version"]))) for row in results]
    cells = {(one.name, one.version): one for one in read}
    known = sorted({one.version for one in read if one.version}, key=natural_order)
    versions = [version for version in known if version in known[-MOST_VERSIONS:] or version in about]
    order = list(TABLES)
    lines = [
        CheckLine(name, [cells.get((name, version)) for version in versions])
        for name in (f"{check.table}.{check.name}" for check in sorted(CHECKS, key=lambda one: order.index(one.table)))
        if any((name, version) in cells for version in versions)
    ]
    return CheckHistory(versions, lines)


def history_part(history: CheckHistory, about: Sequence[str]) -> Markup:
    """The history as a piece of a page: a heat map, and a chart of each check that several versions measured."""
    charts = [_chart(line) for line in history.lines if len(line.measured) > 1]
    return render_part("check_history.html", history=history, charts=charts, about=about, outcomes=list(Outcome))


def _chart(line: CheckLine) -> Chart:
    """The values of a check over the versions, and the bound that the last was held to."""
    import altair as alt

    shown = line.measured
    frame = pl.DataFrame({"version": [one.version for one in shown], "value": [one.value for one in shown]})
    x = alt.X("version:N", sort=frame["version"].to_list(), title=None, axis=alt.Axis(labelAngle=0))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5, format=".3~g"))
    values = alt.Chart(data_of(frame)).mark_line(point=True).encode(x=x, y=y)
    limits = pl.DataFrame({"limit": limits_in(shown[-1].bounds)}, schema={"limit": pl.Float64})
    bound = alt.Chart(data_of(limits)).mark_rule(strokeDash=[4, 3]).encode(y="limit:Q")
    rows = [[str(one.version), one.bounds, one.outcome.value, one.measured] for one in shown]
    return drawn(
        alt.layer(bound, values),
        f"{line.name} over versions; bound: {shown[-1].bounds}",
        ["version", "bound", "result", "value"],
        rows,
    )
