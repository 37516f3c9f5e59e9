"""What a report says of a feedback model's bias: by position, by length, by principle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cai_dagster.judging.label_statistics import IS_VERDICT, LABEL_MASS, P_A, P_COMPLETION_0, SAME_LETTER
from cai_dagster.report.histograms import ORDERS
from cai_dagster.report.tables import EARLIER_WORDING, MOST_ROWS, ReportTables, Row

LENGTH_RATIOS = (1.0, 1.1, 1.25, 1.5, 2.0, 4.0)  # of the longer completion to the shorter: where a bin begins


@dataclass(frozen=True)
class Bias:
    """What decides labels beside the texts. None: there was nothing to measure it on.

    `by_length`: where the bin of length ratios begins, pairs in it, mean P(the longer one is better).
    """

    judgements: int
    mean_p_a: Mapping[str, float]
    label_mass: float | None
    same_letter: float | None
    longer_preferred: float | None
    by_length: Sequence[tuple[float, int, float]]
    by_principle: Sequence[Row]


def bias_of(tables: ReportTables) -> Bias | None:
    """The bias of the judgements; None where nothing was judged."""
    if not tables.have("judgements"):
        return None
    by_order = f"""
        SELECT "order", count(*) AS n, avg(p) AS p_a, avg(mass) AS mass
        FROM (SELECT "order", {P_A} AS p, {LABEL_MASS} AS mass FROM judgements WHERE {IS_VERDICT})
        GROUP BY ALL ORDER BY "order"
    """
    orders = tables.rows(by_order, "judgements")
    count = sum(row["n"] for row in orders)
    (swapped,) = tables.rows(f"SELECT avg(CASE WHEN same THEN 1 ELSE 0 END) AS same FROM ({SAME_LETTER})", "judgements")
    mass = sum(row["mass"] * row["n"] for row in orders) / count if count else None
    return Bias(
        judgements=count,
        mean_p_a={ORDERS[row["order"]]: row["p_a"] for row in orders},
        label_mass=mass,
        same_letter=swapped["same"],
        **_length_bias(tables),
        by_principle=_by_principle(tables),
    )


def _length_bias(tables: ReportTables) -> dict[str, Any]:
    """How often the longer completion is preferred, by how much longer it is."""
    begin = ", ".join(str(ratio) for ratio in LENGTH_RATIOS)
    query = f"""
        SELECT list_max(list_filter([{begin}], one -> one <= ratio)) AS ratio, count(*) AS pairs, avg(longer) AS p,
            sum(CASE WHEN longer > 0.5 THEN 1 WHEN longer = 0.5 THEN 0.5 ELSE 0 END) AS preferred
        FROM (
            SELECT greatest(a, b) / least(a, b) AS ratio, CASE WHEN a > b THEN p_0 ELSE 1 - p_0 END AS longer
            FROM (SELECT pair_id, length(completion_0) AS a, length(completion_1) AS b FROM response_pairs)
            JOIN (
                SELECT pair_id, avg(p_0) AS p_0 FROM (
                    SELECT pair_id, principle_id, avg({P_COMPLETION_0}) AS p_0 FROM judgements
                    WHERE {IS_VERDICT} GROUP BY pair_id, principle_id
                ) GROUP BY pair_id
            ) USING (pair_id) WHERE a <> b
        ) GROUP BY 1 ORDER BY 1
    """
    bins = tables.rows(query, "response_pairs", "judgements")
    pairs = sum(row["pairs"] for row in bins)
    return {
        "by_length": [(float(row["ratio"]), row["pairs"], row["p"]) for row in bins],
        "longer_preferred": float(sum(row["preferred"] for row in bins)) / pairs if pairs else None,
    }


def _by_principle(tables: ReportTables) -> list[dict[str, Any]]:
    several = "bool_or(len(principle_ids) > 1)"
    query = f"""
        SELECT CASE WHEN several THEN 'several together' ELSE coalesce(c.slug, {EARLIER_WORDING}) END AS slug,
            sum(n)::BIGINT AS judgements, sum(p_a * n) / sum(n) AS p_a, avg(same) AS same_letter
        FROM (
            SELECT principle_id, count(*) AS n, avg({P_A}) AS p_a, {several} AS several FROM judgements
            WHERE {IS_VERDICT} GROUP BY principle_id
        ) LEFT JOIN (
            SELECT principle_id, avg(CASE WHEN same THEN 1 ELSE 0 END) AS same FROM ({SAME_LETTER}) GROUP BY ALL
        ) USING (principle_id)
        LEFT JOIN constitution c USING (principle_id) GROUP BY 1 ORDER BY judgements DESC, slug LIMIT {MOST_ROWS}
    """
    return tables.rows(query, "judgements", "constitution")
