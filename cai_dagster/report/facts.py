"""What a report says of one constitution version: counts, distributions and a few examples, all of one snapshot.

Everything that grows with the tables is counted by DuckDB; what comes back is small whatever the number of rows. The
examples are those of `report_examples`. It knows nothing of how it is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cai_dagster.checks.history import CheckHistory, read_history
from cai_dagster.hashing import content_hash
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.newest import in_commit_order, newest_check_results
from cai_dagster.project import CONSTITUTIONS
from cai_dagster.report.bias import Bias, bias_of
from cai_dagster.report.examples import (
    LONGEST_NAME,
    LabelledPair,
    RevisedDialogue,
    dialogue_count,
    dialogues,
    pairs,
    shortened_principle,
)
from cai_dagster.report.histograms import (
    Histogram,
    p_a_histogram,
    p_chosen_histogram,
    picked_reward_histogram,
    reward_histogram,
)
from cai_dagster.report.tables import MOST_ROWS, ReportTables, Row
from cai_dagster.tables.registry import TABLES
from cai_dagster.training.checkpoints import KEY_DIGITS, CheckpointRecord
from cai_dagster.upkeep.status import AssetStatus, State, standing

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


@dataclass(frozen=True)
class FunnelStep:
    """One step of the funnel. `prompts`: different ones (None where the table does not say)."""

    table: str
    rows: int
    prompts: int | None
    rejected: Mapping[str, int]


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
    funnel: Sequence[FunnelStep]
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
    check_history: CheckHistory = field(repr=False)
    dialogues: Sequence[RevisedDialogue] = field(repr=False)
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
        p_a=p_a_histogram(tables),
        p_chosen=p_chosen_histogram(tables),
        bias=bias_of(tables),
        calibration=_calibration(tables),
        checkpoints=_checkpoints(tables),
        rewards=reward_histogram(tables),
        rewards_of_picked=picked_reward_histogram(tables),
        reward_model_evaluation=evaluated,
        reward_model_evaluation_of=evaluated_of,
        policy_evaluation=_policies(tables),
        accounts=[tables.accounts[name] for name in TABLES if name in tables.accounts],
        spent=_spent(tables),
        checks=_checks(tables),
        check_history=read_history(lake, [version], tables.snapshot_id),
        dialogues=dialogues(tables),
        dialogues_of=dialogue_count(tables),
        pairs=pairs(tables),
    )


def _suspect(
    tables: ReportTables, version: str, principles: Sequence[Row], constitutions: Path
) -> dict[str, AssetStatus]:
    accounts = tables.recorded(partial(in_commit_order, "materializations")).to_dicts()
    results = tables.recorded(newest_check_results).sort("check_name").to_dicts()
    found = standing(version, accounts, results, principles, constitutions)
    return {one.asset: one for one in found if one.state in {State.stale, State.failed}}


def _how(tables: ReportTables) -> dict[str, list[str]]:
    """How things were done, by what they are called; what has not been done is left out."""
    ways = {
        "policy model": ("policy_model", "initial_responses"),
        "critique and revision rounds": ("max(round)::VARCHAR", "revision_rounds"),
        "pairs made of": ("source", "response_pairs"),
        "feedback model": ("feedback_model", "judgements"),
        "judging method": ("method", "judgements"),
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


def _funnel(tables: ReportTables) -> list[FunnelStep]:
    query = """
        SELECT table_name, constitution_version, left(split_part(reason, ':', 1), {longest}) AS code,
            count(*) AS rejected
        FROM rows GROUP BY ALL ORDER BY rejected DESC, code
    """
    rejected: dict[str, dict[str, int]] = {}
    counts = tables.recorded(partial(in_commit_order, "rejected_rows"), query.format(longest=LONGEST_NAME))
    for row in counts.iter_rows(named=True):
        reasons = rejected.setdefault(row["table_name"], {})
        code = row["code"] if len(reasons) < MOST_REASONS else "other reasons"
        reasons[code] = reasons.get(code, 0) + row["rejected"]
    stages: list[FunnelStep] = []
    for name in FUNNEL:
        if not tables.have(name):
            continue
        knows_prompts = TABLES[name].has("prompt_id")
        prompts = "count(DISTINCT prompt_id)" if knows_prompts else "NULL::BIGINT"
        (counted,) = tables.rows(f"SELECT count(*) AS n, {prompts} AS prompts FROM {name}", name)
        stages.append(FunnelStep(name, counted["n"], counted["prompts"], rejected.get(name, {})))
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
        ORDER BY coalesce(list_position([{order}], slice), 99), slice, slice_value LIMIT {MOST_ROWS}
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
    spent = tables.recorded(partial(in_commit_order, "materializations"), query)
    return {row["table_name"]: row for row in spent.iter_rows(named=True)}


def _checks(tables: ReportTables) -> list[dict[str, Any]]:
    """The latest result of each check; those that failed first, then warnings.

    `runs`: how often it has run; `outdated`: the rows that it measured have been replaced since.
    """
    results = tables.recorded(newest_check_results).sort("passed", "severity", "table_name", "check_name")
    made = {name: account["data_version"] for name, account in tables.accounts.items()}
    return [
        {**row, "outdated": row["data_version"] != made.get(row["table_name"], row["data_version"])}
        for row in results.head(MOST_ROWS).to_dicts()
    ]
