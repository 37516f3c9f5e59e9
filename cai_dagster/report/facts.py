"""What a report says of one constitution version: counts, distributions and a few examples, all of one snapshot.

Everything that grows with the tables is counted by DuckDB; what comes back is small whatever the number of rows. The
examples are those of `report_examples`. It knows nothing of how it is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai_dagster.hashing import content_hash
from cai_dagster.home import CONSTITUTIONS
from cai_dagster.judging.label_statistics import IS_VERDICT, LABEL_MASS, P_A, P_COMPLETION_0, SAME_LETTER
from cai_dagster.lake.lake import Lake
from cai_dagster.report.examples import (
    LONGEST_NAME,
    Dialogue,
    LabelledPair,
    dialogue_count,
    dialogues,
    pairs,
    shortened_principle,
)
from cai_dagster.report.tables import EARLIER_WORDING, ReportTables
from cai_dagster.tables.registry import TABLES
from cai_dagster.training.checkpoints import KEY_DIGITS, CheckpointRecord
from cai_dagster.upkeep.status import ACCOUNTS, CHECKS, AssetStatus, State, standing

Row = Mapping[str, Any]

BINS = 20
MOST_ROWS = 200  # of a table that is shown whole
MOST_REASONS = 12
MOST_WAYS = 5  # in which one thing was done: methods, models, policies
MOST_POINTS = 300  # of a curve

FUNNEL = (
    "prompts",
    "initial_responses",
    "revision_rounds",
    "sft_dataset",
    "response_pairs",
    "judgements",
    "preference_pairs",
)
CHECKPOINTS = ("sl_cai_model", "reward_model", "teacher_sft_model", "dpo_model", "rlaif_model")
ORDERS = {"01": "completion_0 as (A)", "10": "completion_1 as (A)"}
LENGTH_RATIOS = (1.0, 1.1, 1.25, 1.5, 2.0, 4.0)  # of the longer completion to the shorter: where a bin begins


@dataclass(frozen=True)
class Stage:
    """One step of the funnel. `prompts`: different ones (None where the table does not say)."""

    table: str
    rows: int
    prompts: int | None
    rejected: Mapping[str, int]


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of the same width from `low` to `high`, by series."""

    low: float
    high: float
    counts: Mapping[str, Sequence[int]]

    @property
    def edges(self) -> list[float]:
        """Where each bin begins, and the end of the last."""
        bins = max(map(len, self.counts.values()))
        return [self.low + (self.high - self.low) * number / bins for number in range(bins + 1)]


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


@dataclass(frozen=True)
class Calibration:
    """The feedback model against humans: rows of `judge_calibration`, and (confidence, agreement, share) by bin.

    `of`: how many rows there are; what does not fit is the last of them.
    """

    slices: Sequence[Row]
    of: int
    reliability: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Facts:
    """One constitution version as it was at one snapshot. What has not been made is None, or empty.

    Rows are those of the tables they are named after; `spent` is what all runs together paid for each table, `suspect`
    the tables that a change has made stale or a check has refused, `how` the ways in which things were done.
    """

    version: str
    snapshot_id: int
    principles: Sequence[Row] = field(repr=False)
    made: frozenset[str]
    suspect: Mapping[str, AssetStatus]
    how: Mapping[str, Sequence[str]]
    funnel: Sequence[Stage]
    splits: Mapping[str, int]
    unlabelled: Mapping[str, int]
    p_a: Histogram | None
    p_chosen: Histogram | None
    bias: Bias | None
    calibration: Calibration | None
    checkpoints: Sequence[CheckpointRecord]
    rewards: Histogram | None
    rewards_of_picked: Histogram | None
    reward_model_evaluation: Sequence[Row]
    reward_model_evaluation_of: int
    policy_evaluation: Sequence[Row]
    accounts: Sequence[Row]
    spent: Mapping[str, Row]
    checks: Sequence[Row]
    dialogues: Sequence[Dialogue] = field(repr=False)
    dialogues_of: int
    pairs: Sequence[LabelledPair] = field(repr=False)

    @property
    def data_version(self) -> str:
        """Hash of the data versions of all tables it is about."""
        return content_hash([(row["table_name"], row["data_version"]) for row in self.accounts], KEY_DIGITS)


def facts_of(lake: Lake, version: str, constitutions: Path = CONSTITUTIONS) -> Facts:
    """Everything a report says. Raises LakeError where the version's constitution has never been materialized.

    The file of the version in `constitutions` is read, to say where it has changed.
    """
    tables = ReportTables(lake, version)
    principles = tables.rows("SELECT * FROM constitution ORDER BY slug", "constitution")
    evaluated, evaluated_of = _slices(tables, "reward_model_evaluation")
    return Facts(
        version=version,
        snapshot_id=tables.snapshot_id,
        principles=[shortened_principle(row) for row in principles],
        made=frozenset(tables.accounts),
        suspect=_suspect(tables, version, principles, constitutions),
        how=_how(tables),
        funnel=_funnel(tables),
        splits=_splits(tables),
        unlabelled=_unlabelled(tables),
        p_a=_p_a(tables),
        p_chosen=_p_chosen(tables),
        bias=_bias(tables),
        calibration=_calibration(tables),
        checkpoints=_checkpoints(tables),
        rewards=_rewards(tables),
        rewards_of_picked=_rewards_of_picked(tables),
        reward_model_evaluation=evaluated,
        reward_model_evaluation_of=evaluated_of,
        policy_evaluation=_policies(tables),
        accounts=[tables.accounts[name] for name in TABLES if name in tables.accounts],
        spent=_spent(tables),
        checks=_checks(tables),
        dialogues=dialogues(tables),
        dialogues_of=dialogue_count(tables),
        pairs=pairs(tables),
    )


def _suspect(
    tables: ReportTables, version: str, principles: Sequence[Row], constitutions: Path
) -> dict[str, AssetStatus]:
    accounts, results = (
        tables.of_version(name, query.format(table="rows")).to_dicts()
        for name, query in (("materializations", ACCOUNTS), ("check_results", CHECKS))
    )
    found = standing(version, accounts, results, principles, constitutions)
    return {one.asset: one for one in found if one.state in {State.stale, State.failed}}


def _how(tables: ReportTables) -> dict[str, list[str]]:
    """How things were done, by what they are called; what has not been done is left out."""
    ways = {
        "policy model": ("policy_model", "initial_responses"),
        "critique and revision rounds": ("max(round)::VARCHAR", "revision_rounds"),
        "pairs made of": ("source", "response_pairs"),
        "feedback model": ("feedback_model", "judgements"),
        "judging method": ("coalesce(method, 'one_principle')", "judgements"),
        "label policy": ("label_policy", "preference_pairs"),
    }
    how: dict[str, list[str]] = {}
    for name, (column, table) in ways.items():
        query = f"SELECT DISTINCT left({column}, {LONGEST_NAME + 1}) AS way FROM {table} ORDER BY 1 LIMIT {MOST_WAYS}"
        if found := [row["way"] for row in tables.rows(query, table) if row["way"] is not None]:
            how[name] = found
    return how


def _splits(tables: ReportTables) -> dict[str, int]:
    query = "SELECT split, count(*) AS n FROM prompts GROUP BY split"
    return {row["split"]: row["n"] for row in tables.rows(query, "prompts")}


def _funnel(tables: ReportTables) -> list[Stage]:
    query = """
        SELECT table_name, constitution_version, left(split_part(reason, ':', 1), {longest}) AS code,
            count(*) AS rejected
        FROM rows GROUP BY ALL ORDER BY rejected DESC, code
    """
    rejected: dict[str, dict[str, int]] = {}
    for row in tables.of_version("rejected_rows", query.format(longest=LONGEST_NAME)).iter_rows(named=True):
        reasons = rejected.setdefault(row["table_name"], {})
        code = row["code"] if len(reasons) < MOST_REASONS else "other reasons"
        reasons[code] = reasons.get(code, 0) + row["rejected"]
    stages: list[Stage] = []
    for name in FUNNEL:
        if not tables.have(name):
            continue
        knows_prompts = TABLES[name].has("prompt_id")
        prompts = "count(DISTINCT prompt_id)" if knows_prompts else "NULL::BIGINT"
        (counted,) = tables.rows(f"SELECT count(*) AS n, {prompts} AS prompts FROM {name}", name)
        stages.append(Stage(name, counted["n"], counted["prompts"], rejected.get(name, {})))
    return stages


def _unlabelled(tables: ReportTables) -> dict[str, int]:
    """How many response pairs gave no preference pair, by reason."""
    query = """
        SELECT CASE WHEN p.completion_0 = p.completion_1 THEN 'identical texts'
                    WHEN j.pair_id IS NULL THEN 'not judged'
                    ELSE 'a tie, or orders that disagree' END AS reason, count(*) AS pairs
        FROM response_pairs p LEFT JOIN (SELECT DISTINCT pair_id FROM judgements) j USING (pair_id)
        ANTI JOIN preference_pairs l ON l.pair_id = p.pair_id GROUP BY reason ORDER BY reason
    """
    return {
        row["reason"]: row["pairs"] for row in tables.rows(query, "response_pairs", "judgements", "preference_pairs")
    }


def _p_a(tables: ReportTables) -> Histogram | None:
    query = f"""
        SELECT "order" AS series, {_bin("p", 0, 1)} AS bin, count(*) AS n
        FROM (SELECT "order", {P_A} AS p FROM judgements WHERE {IS_VERDICT}) GROUP BY ALL
    """
    return _histogram(tables.rows(query, "judgements"), 0, 1, ORDERS)


def _p_chosen(tables: ReportTables) -> Histogram | None:
    query = (
        f"SELECT 'pairs' AS series, {_bin('p_chosen', 0.5, 1)} AS bin, count(*) AS n FROM preference_pairs GROUP BY ALL"
    )
    return _histogram(tables.rows(query, "preference_pairs"), 0.5, 1, {"pairs": "pairs"})


def _rewards(tables: ReportTables) -> Histogram | None:
    """Rewards of the held-out pairs; None in tables of older versions."""
    query = """
        SELECT reward_low, reward_high, chosen_rewards, rejected_rewards FROM reward_model_evaluation
        WHERE slice = 'all' AND chosen_rewards IS NOT NULL
    """
    for row in tables.rows(query, "reward_model_evaluation"):
        counts = {"chosen": row["chosen_rewards"], "rejected": row["rejected_rewards"]}
        return Histogram(row["reward_low"], row["reward_high"], counts)
    return None


def _rewards_of_picked(tables: ReportTables) -> Histogram | None:
    """Rewards of the completions that best-of-n picked, and of a random pick."""
    if not tables.have("best_of_n"):
        return None
    finite = "SELECT reward, mean_reward FROM best_of_n WHERE isfinite(reward) AND isfinite(mean_reward)"
    (ends,) = tables.rows(f"SELECT min(mean_reward) AS low, max(reward) AS high FROM ({finite})", "best_of_n")
    if ends["low"] is None:
        return None
    low, high = (ends["low"], ends["high"]) if ends["low"] < ends["high"] else (ends["low"] - 0.5, ends["low"] + 0.5)
    query = f"""
        SELECT series, {_bin("value", low, high)} AS bin, count(*) AS n
        FROM (UNPIVOT ({finite}) ON reward, mean_reward INTO NAME series VALUE value) GROUP BY ALL
    """
    series = {"reward": "the one picked", "mean_reward": "mean of its candidates"}
    return _histogram(tables.rows(query, "best_of_n"), low, high, series)


def _bin(value: str, low: float, high: float) -> str:
    """SQL for the number of the bin; what lies on an end belongs to the bin beside it."""
    return f"greatest(0, least({BINS - 1}, floor(({value} - ({low})) / ({high - low}) * {BINS})))::INTEGER"


def _histogram(counted: Sequence[Row], low: float, high: float, series: Mapping[str, str]) -> Histogram | None:
    if not counted:
        return None
    counts = {name: [0] * BINS for key, name in series.items() if any(row["series"] == key for row in counted)}
    for row in counted:
        counts[series[row["series"]]][row["bin"]] = row["n"]
    return Histogram(low, high, counts)


def _bias(tables: ReportTables) -> Bias | None:
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
    several = "bool_or(coalesce(len(principle_ids), 1) > 1)"
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


def _calibration(tables: ReportTables) -> Calibration | None:
    from cai_dagster.evaluation.calibration import reliability

    slices, count = _slices(tables, "judge_calibration")
    if not slices or not tables.have("calibration_judgements", "human_preferences"):
        return None
    judged = tables.query("FROM calibration_judgements", "calibration_judgements")
    compared = "SELECT h.* FROM human_preferences h SEMI JOIN calibration_judgements USING (pair_id)"
    bins = reliability(judged, tables.query(compared, "human_preferences", "calibration_judgements"))
    return Calibration(slices, count, [(one.confidence, one.agreement, one.share) for one in bins])


def _checkpoints(tables: ReportTables) -> list[CheckpointRecord]:
    found: list[CheckpointRecord] = []
    for name in CHECKPOINTS:
        for row in tables.rows(f"SELECT record FROM {name}", name):
            record = CheckpointRecord.model_validate_json(row["record"])
            curves = {name: thinned(curve) for name, curve in record.curves.items()}
            found.append(record.model_copy(update={"loss_curve": thinned(record.loss_curve), "curves": curves}))
    return found


def thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about `MOST_POINTS` points of a curve, evenly spaced, with its last."""
    step = max(1, -(-len(curve) // MOST_POINTS))
    return [*curve[:-1][::step], *curve[-1:]]


_SLICES = ("all", "one_principle", "humans", "labelled_by", "principle", "category", "benchmark", "benchmark_category")


def _slices(tables: ReportTables, name: str) -> tuple[list[dict[str, Any]], int]:
    """The rows of a table of slices, the whole first and the many subsets of benchmarks last; how many there are."""
    order = ", ".join(f"'{kind}'" for kind in _SLICES)
    query = f"""
        SELECT *, count(*) OVER () AS of FROM {name}
        ORDER BY coalesce(list_position([{order}], coalesce(slice, 'all')), 99), slice, slice_value LIMIT {MOST_ROWS}
    """
    rows = tables.rows(query, name)
    return rows, rows[0]["of"] if rows else 0


def _policies(tables: ReportTables) -> list[dict[str, Any]]:
    query = f"FROM policy_evaluation ORDER BY opponent <> 'all', win_rate DESC, policy, opponent LIMIT {MOST_ROWS}"
    return tables.rows(query, "policy_evaluation")


def _spent(tables: ReportTables) -> dict[str, Row]:
    query = """
        SELECT table_name, constitution_version, count(*) AS runs, sum(ledger_misses)::BIGINT AS calls,
            sum(prompt_tokens + completion_tokens)::BIGINT AS tokens, sum(seconds) AS seconds
        FROM rows GROUP BY ALL
    """
    return {row["table_name"]: row for row in tables.of_version("materializations", query).iter_rows(named=True)}


def _checks(tables: ReportTables) -> list[dict[str, Any]]:
    """The latest result of each check; those that failed first, then warnings.

    `runs`: how often it has run; `outdated`: the rows that it measured have been replaced since.
    """
    query = """
        SELECT *, count(*) OVER (PARTITION BY table_name, check_name, constitution_version) AS runs FROM rows
        QUALIFY row_number() OVER (
            PARTITION BY table_name, check_name, constitution_version ORDER BY checked_at DESC) = 1
    """
    results = tables.of_version("check_results", query).sort("passed", "severity", "table_name", "check_name")
    made = {name: account["data_version"] for name, account in tables.accounts.items()}
    return [
        {**row, "outdated": row["data_version"] != made.get(row["table_name"], row["data_version"])}
        for row in results.head(MOST_ROWS).to_dicts()
    ]
