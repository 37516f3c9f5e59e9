"""The charts of a report: what each shows. `pages.svg_charts` draws them. It knows no table store."""

# The libraries below are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from cai_dagster.pages.svg_charts import COLOURS, HEIGHT, WIDTH, Chart, chart_of, coloured, data_of, drawn, with_data
from cai_dagster.report.bias import LENGTH_RATIOS
from cai_dagster.report.facts import Facts, Row
from cai_dagster.report.histograms import Histogram
from cai_dagster.text import printable

LONGEST_NAME = 80  # what does not fit beside the axis is cut there
MOST_DOTS = 40  # on a line
MOST_SLICES = 20  # in one chart


def charts_of(facts: Facts) -> dict[str, Chart]:
    """Every chart whose numbers there are, by name."""
    charts: dict[str, Chart | None] = {
        "funnel": _funnel(facts),
        "p_a": facts.p_a and _histogram(facts.p_a, "P(A)", "judgements", "P(A) by order: the judgements in each bin"),
        "by_length": _by_length(facts),
        "p_chosen": facts.p_chosen
        and _histogram(facts.p_chosen, "P(chosen)", "pairs", "P(chosen) of the preference pairs"),
        "reliability": _reliability(facts),
        "rewards": facts.rewards
        and _histogram(facts.rewards, "reward", "pairs", "Rewards of both completions of the held-out pairs"),
        "rewards_of_picked": facts.rewards_of_picked
        and _histogram(
            facts.rewards_of_picked, "reward", "prompts", "Rewards under best-of-n, of the one picked and on average"
        ),
        "accuracy": _accuracy(facts),
        "win_rates": _win_rates(facts),
        "tokens": _tokens(facts),
    }
    return {name: chart for name, chart in charts.items() if chart is not None}


def curves_of(facts: Facts) -> dict[str, list[Chart]]:
    """The curves of each checkpoint, its loss first."""
    return {
        record.asset: [
            _curve(curve, name.replace("_", " "), record.asset)
            for name, curve in {"training_loss": record.loss_curve, **record.curves}.items()
            if curve
        ]
        for record in facts.checkpoints
    }


def _funnel(facts: Facts) -> Chart | None:
    import altair as alt

    if not facts.funnel:
        return None
    rows = [(stage.table, kind, count) for stage in facts.funnel for kind, count in _kept_and_rejected(stage)]
    frame = pl.DataFrame(rows, schema=["table", "kind", "rows"], orient="row")
    order = [stage.table for stage in facts.funnel]
    chart = (
        chart_of(frame)
        .mark_bar()
        .encode(
            y=alt.Y("table:N", sort=order, title=None),
            x=alt.X("rows:Q", title="rows", axis=alt.Axis(format="~s", tickCount=5)),
            color=coloured(["kept", "rejected"]),
            order=alt.Order("kind:N"),
        )
    )
    shown = [[table, kind, f"{count:,}"] for table, kind, count in rows]
    return drawn(chart, "Rows of each table, kept and rejected", ["table", "which", "rows"], shown, 26 * len(order))


def _kept_and_rejected(stage: Any) -> list[tuple[str, int]]:
    return [("kept", stage.rows), ("rejected", sum(stage.rejected.values()))]


def _histogram(histogram: Histogram, x: str, y: str, caption: str) -> Chart:
    """A panel a series, one above the other, on the same scales."""
    import altair as alt

    edges, names = histogram.edges, list(histogram.counts)
    rows = [
        (name, low, high, count)
        for name, counts in histogram.counts.items()
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    frame = pl.DataFrame(rows, schema=["series", "low", "high", "count"], orient="row")
    bars = (
        alt.Chart()
        .mark_bar(binSpacing=0)
        .encode(
            x=alt.X(
                "low:Q",
                bin="binned",
                title=x,
                scale=alt.Scale(domain=[edges[0], edges[-1]], nice=False),
                axis=alt.Axis(values=edges[:: max(1, len(edges) // 4)], format=".3~g"),
            ),
            x2="high:Q",
            y=alt.Y("count:Q", title=y, axis=alt.Axis(tickCount=4, format="~s")),
        )
        .properties(width=WIDTH, height=HEIGHT if len(names) == 1 else HEIGHT * 2 // 3)
    )
    if len(names) > 1:
        header = alt.Header(labelOrient="top", labelAnchor="start", labelPadding=2)
        row = alt.Row("series:N", sort=names, header=header)
        chart = bars.facet(row=row, data=data_of(frame), spacing=8)
    else:
        chart = with_data(bars, frame)
    shown = [[name, f"{low:.3g} to {high:.3g}", f"{count:,}"] for name, low, high, count in rows if count]
    return drawn(chart, caption, ["series", x, y], shown)


def _by_length(facts: Facts) -> Chart | None:
    import altair as alt

    if facts.bias is None or not facts.bias.by_length:
        return None
    rows = [(_ratios_from(begin), pairs, p) for begin, pairs, p in facts.bias.by_length]
    names = [name for name, _, _ in rows]
    frame = pl.DataFrame(rows, schema=["ratio", "pairs", "p"], orient="row")
    places = alt.X("ratio:N", sort=names, title="how many times longer", axis=alt.Axis(labelAngle=0, labelFontSize=11))
    scale = alt.Scale(domain=[0, 1])
    bars = alt.Chart().mark_point().encode(x=places, y=alt.Y("p:Q", title="P(the longer one is better)", scale=scale))
    half = alt.Chart().mark_rule(strokeDash=[4, 3]).encode(y=alt.datum(0.5))
    chart = with_data(alt.layer(half, bars), frame)
    shown = [[name, f"{pairs:,}", f"{p:.3f}"] for name, pairs, p in rows]
    caption = "How likely the longer completion is called better, by how much longer it is; 0.5 is no preference"
    return drawn(chart, caption, ["ratio of lengths", "pairs", "mean P"], shown)


def _ratios_from(begin: float) -> str:
    """The bin of length ratios that begins there: `1.1–1.25`"""
    above = [ratio for ratio in LENGTH_RATIOS if ratio > begin]
    return f"{begin:g}–{above[0]:g}" if above else f"{begin:g}+"


def _reliability(facts: Facts) -> Chart | None:
    import altair as alt

    if facts.calibration is None or not facts.calibration.reliability:
        return None
    bins = facts.calibration.reliability
    frame = pl.DataFrame(bins, schema=["confidence", "agreement", "share"], orient="row")
    line = alt.Chart(data_of(pl.DataFrame({"confidence": [0.5, 1.0], "agreement": [0.5, 1.0]})))
    tenths = [tenth / 10 for tenth in range(5, 11)]
    scale_x, scale_y = alt.Scale(domain=[0.48, 1.02]), alt.Scale(domain=[0, 1.02])
    dots = (
        chart_of(frame)
        .mark_point()
        .encode(
            x=alt.X("confidence:Q", scale=scale_x, title="confidence of the label", axis=alt.Axis(values=tenths)),
            y=alt.Y("agreement:Q", scale=scale_y, title="agreement with humans"),
            size=alt.Size("share:Q", scale=alt.Scale(domain=[0, 1], range=[30, 500]), legend=None),
        )
    )
    diagonal = line.mark_line(strokeDash=[4, 3], color="var(--quiet)").encode(x="confidence:Q", y="agreement:Q")
    shown = [[f"{confidence:.3f}", f"{agreement:.3f}", f"{share:.1%}"] for confidence, agreement, share in bins]
    caption = "Reliability: agreement with humans by confidence of the label; on the diagonal it is as right as it says"
    return drawn(diagonal + dots, caption, ["confidence", "agreement", "share of the labels"], shown)


def _accuracy(facts: Facts) -> Chart | None:
    shown = facts.reward_model_evaluation[:MOST_SLICES]
    scores = [(slice_name(row), row["accuracy"], row["accuracy_low"], row["accuracy_high"]) for row in shown]
    caption = "Accuracy of the reward model on held-out pairs, by slice, with 95 % intervals"
    if more := facts.reward_model_evaluation_of - len(shown):
        caption += f"; {more:,} more in the table below"
    return _intervals(scores, "slice", "accuracy", caption)


def slice_name(row: Row) -> str:
    """`principle: crisis-care`; slices of different kinds may be of the same name."""
    kind = (row["slice"] or "all").replace("_", " ")
    return _name(f"{kind}: {row['slice_value']}" if row["slice_value"] else kind)


def _win_rates(facts: Facts) -> Chart | None:
    scores = [
        (_name(row["policy"]), row["win_rate"], row["win_rate_low"], row["win_rate_high"])
        for row in facts.policy_evaluation
        if row["opponent"] == "all"
    ]
    return _intervals(scores, "policy", "win rate", "Win rate of each policy against all others, with its interval")


def _intervals(
    scores: Sequence[tuple[str, float, float | None, float | None]], kind: str, measured: str, caption: str
) -> Chart | None:
    """A dot with its interval a name; the dashed line is one half."""
    import altair as alt

    if not scores:
        return None
    distinct = _distinct(name for name, *_ in scores)
    scores = [(name, value, low, high) for name, (_, value, low, high) in zip(distinct, scores, strict=True)]
    rows = [(name, value, *_or_value(value, low, high)) for name, value, low, high in scores]
    frame = pl.DataFrame(rows, schema=["name", "value", "low", "high"], orient="row")
    names = alt.Y("name:N", sort=[row[0] for row in rows], title=None)
    quarters = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format="~g")
    value = alt.X("value:Q", title=measured, scale=alt.Scale(domain=[0, 1]), axis=quarters)
    dots = alt.Chart().mark_point().encode(y=names, x=value)
    lines = alt.Chart().mark_rule(strokeWidth=2, color=COLOURS[0]).encode(y=names, x="low:Q", x2="high:Q")
    half = alt.Chart().mark_rule(strokeDash=[4, 3]).encode(x=alt.datum(0.5))
    chart = with_data(alt.layer(half, lines, dots), frame)
    shown = [[name, f"{value:.3f}", _interval(low, high)] for name, value, low, high in scores]
    return drawn(chart, caption, [kind, measured, "interval"], shown, 24 * len(rows))


def _distinct(names: Iterable[str]) -> list[str]:
    """The names, with a number where an earlier one is the same: each gets a line of its own."""
    seen: Counter[str] = Counter()
    distinct: list[str] = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct


def _or_value(value: float, low: float | None, high: float | None) -> tuple[float, float]:
    return (value if low is None else low, value if high is None else high)


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _tokens(facts: Facts) -> Chart | None:
    import altair as alt

    paid = [row for row in facts.accounts if row["ledger_misses"] or row["ledger_hits"]]
    if not paid:
        return None
    kinds = {"ledger_misses": "paid for", "ledger_hits": "from the ledger"}
    rows = [(row["table_name"], name, row[column]) for row in paid for column, name in kinds.items()]
    frame = pl.DataFrame(rows, schema=["table", "kind", "calls"], orient="row")
    chart = (
        chart_of(frame)
        .mark_bar()
        .encode(
            y=alt.Y("table:N", sort=[row["table_name"] for row in paid], title=None),
            x=alt.X("calls:Q", title="model calls", axis=alt.Axis(format="~s", tickCount=5)),
            color=coloured(list(kinds.values())),
        )
    )
    shown = [[table, kind, f"{calls:,}"] for table, kind, calls in rows]
    caption = "Model calls of the latest materialization of each table, paid for and answered from the ledger"
    return drawn(chart, caption, ["table", "which", "calls"], shown, 26 * len(paid))


def _curve(points: Sequence[tuple[int, float]], measured: str, asset: str) -> Chart:
    import altair as alt

    frame = pl.DataFrame(points, schema=["step", "value"], orient="row")
    dots = {"point": True} if len(points) <= MOST_DOTS else {}
    first, last = points[0][0], points[-1][0]
    ticks = sorted({round(first + (last - first) * fifth / 5) for fifth in range(6)})
    chart = (
        chart_of(frame)
        .mark_line(**dots)
        .encode(
            x=alt.X("step:Q", title="optimizer step", axis=alt.Axis(values=ticks, format="~s")),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5, format=".3~g")),
        )
    )
    shown = [[f"{step:,}", f"{value:.4g}"] for step, value in points]
    return drawn(chart, f"{measured} of {asset}", ["optimizer step", measured], shown)


def _name(text: str) -> str:
    return printable(text, LONGEST_NAME)
