"""What a report says of one constitution version: counts, distributions and a few examples, all of one snapshot.

Everything that grows with the tables is counted by DuckDB; what comes back is small whatever the number of rows. It
knows nothing of how it is shown.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import polars as pl
from markupsafe import escape

from cai_dagster.checkpoints import KEY_DIGITS, CheckpointRecord
from cai_dagster.hashing import content_hash
from cai_dagster.lake import Lake
from cai_dagster.snapshots import TableSnapshot
from cai_dagster.tables import TABLES
from cai_dagster.text import printable

Row = Mapping[str, Any]
Example = TypeVar("Example")

BINS = 20
MOST_DIALOGUES = 40
MOST_PAIRS = 12
MOST_TURNS = 8
MOST_ROWS = 100  # of a table that is shown whole
MOST_POINTS = 300  # of a curve
LONGEST_EXAMPLE = 2_400  # characters of one text of an example
LONGEST_REQUEST = 1_000  # characters of one text of a principle
DIALOGUES_BYTES, PAIRS_BYTES, PRINCIPLES_BYTES = 2_000_000, 500_000, 700_000  # of what is shown, escaped
SEED = 0

FUNNEL = (
    "prompts",
    "initial_responses",
    "revision_rounds",
    "sft_dataset",
    "response_pairs",
    "judgements",
    "preference_pairs",
)
REQUESTS = ("critique_request", "revision_request", "comparison_request")
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
    """The feedback model against humans: rows of `judge_calibration`, and (confidence, agreement, share) by bin."""

    slices: Sequence[Row]
    reliability: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Revision:
    """One round of a dialogue."""

    number: int
    principle: str
    critique: str
    before: str
    after: str


@dataclass(frozen=True)
class Dialogue:
    """An example: a prompt, its first response and what became of it. `prompt` is (role, text) a turn."""

    prompt_id: str
    category: str
    prompt: Sequence[tuple[str, str]]
    response: str
    rounds: Sequence[Revision]

    @property
    def principles(self) -> list[str]:
        """The slugs that were drawn, in order, each once."""
        return list(dict.fromkeys(one.principle for one in self.rounds))


@dataclass(frozen=True)
class LabelledPair:
    """An example of a preference pair."""

    pair_id: str
    category: str
    prompt: Sequence[tuple[str, str]]
    chosen: str
    rejected: str
    p_chosen: float
    label_policy: str


@dataclass(frozen=True)
class Facts:
    """One constitution version as it was at one snapshot. What has not been made is None, or empty.

    Rows are those of the tables they are named after; `spent` is what all runs together paid for each table.
    """

    version: str
    snapshot_id: int
    principles: Sequence[Row]
    principles_left_out: int
    made: frozenset[str]
    funnel: Sequence[Stage]
    unlabelled: Mapping[str, int]
    p_a: Histogram | None
    p_chosen: Histogram | None
    bias: Bias | None
    calibration: Calibration | None
    checkpoints: Sequence[CheckpointRecord]
    rewards: Histogram | None
    rewards_of_picked: Histogram | None
    reward_model_evaluation: Sequence[Row]
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


def facts_of(lake: Lake, version: str) -> Facts:
    """Everything a report says. Raises LakeError where the version's constitution has never been materialized."""
    tables = _Tables(lake, version)
    principles = tables.rows("SELECT * FROM constitution ORDER BY slug", "constitution")
    shown = _within(PRINCIPLES_BYTES, map(_shortened_principle, principles), _principle_texts)
    return Facts(
        version=version,
        snapshot_id=tables.snapshot_id,
        principles=shown,
        principles_left_out=len(principles) - len(shown),
        made=frozenset(tables.accounts),
        funnel=_funnel(tables),
        unlabelled=_unlabelled(tables),
        p_a=_p_a(tables),
        p_chosen=_p_chosen(tables),
        bias=_bias(tables),
        calibration=_calibration(tables),
        checkpoints=_checkpoints(tables),
        rewards=_rewards(tables),
        rewards_of_picked=_rewards_of_picked(tables),
        reward_model_evaluation=_ordered(tables, "reward_model_evaluation", "slice NULLS FIRST, slice_value"),
        policy_evaluation=_ordered(tables, "policy_evaluation", "win_rate DESC, policy, opponent"),
        accounts=[tables.accounts[name] for name in TABLES if name in tables.accounts],
        spent=_spent(tables),
        checks=_checks(tables),
        dialogues=_dialogues(tables),
        dialogues_of=_dialogue_count(tables),
        pairs=_pairs(tables),
    )


class _Tables:
    """The tables of one version, all as they were at one snapshot."""

    def __init__(self, lake: Lake, version: str) -> None:
        self.snapshot_id = lake.snapshot("constitution", version).snapshot_id
        self._lake = lake
        self._version = version

    def query(self, sql: str, *tables: str) -> pl.DataFrame:
        return self._lake.query(sql, **{name: self._snapshot(name) for name in tables})

    def rows(self, sql: str, *tables: str) -> list[dict[str, Any]]:
        """The result, or none where one of the tables was never materialized."""
        return self.query(sql, *tables).to_dicts() if self.have(*tables) else []

    def have(self, *tables: str) -> bool:
        return all(name in self.accounts for name in tables)

    def of_version(self, table: str, sql: str) -> pl.DataFrame:
        """What the SQL makes of `rows`, the rows of all versions, and of it what belongs to this one or to none."""
        everything = self._lake.query(sql, rows=TableSnapshot(self._lake, table, None, self.snapshot_id))
        version = pl.col("constitution_version")
        return everything.filter(version.is_null() | (version == self._version))

    @cached_property
    def accounts(self) -> dict[str, dict[str, Any]]:
        """The latest account of each table that has been materialized, by its name."""
        latest = """
            FROM rows QUALIFY row_number() OVER (
                PARTITION BY table_name, constitution_version ORDER BY materialized_at DESC) = 1
        """
        accounts = self.of_version("materializations", latest).filter(pl.col("table_name").is_in(list(TABLES)))
        return {row["table_name"]: row for row in accounts.iter_rows(named=True)}

    def _snapshot(self, table: str) -> TableSnapshot:
        version = self._version if TABLES[table].versioned else None
        return TableSnapshot(self._lake, table, version, self.snapshot_id)


def _funnel(tables: _Tables) -> list[Stage]:
    query = """
        SELECT table_name, constitution_version, split_part(reason, ':', 1) AS code, count(*) AS rejected
        FROM rows GROUP BY ALL ORDER BY rejected DESC, code
    """
    rejected: dict[str, dict[str, int]] = {}
    for row in tables.of_version("rejected_rows", query).iter_rows(named=True):
        rejected.setdefault(row["table_name"], {})[row["code"]] = row["rejected"]
    stages: list[Stage] = []
    for name in FUNNEL:
        if not tables.have(name):
            continue
        knows_prompts = "prompt_id" in TABLES[name].schema
        prompts = "count(DISTINCT prompt_id)" if knows_prompts else "NULL::BIGINT"
        (counted,) = tables.rows(f"SELECT count(*) AS n, {prompts} AS prompts FROM {name}", name)
        stages.append(Stage(name, counted["n"], counted["prompts"], rejected.get(name, {})))
    return stages


def _unlabelled(tables: _Tables) -> dict[str, int]:
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


_P_A = "1 / (1 + exp(logp_b - logp_a))"  # nan where neither letter is possible: no verdict


def _p_a(tables: _Tables) -> Histogram | None:
    query = f"""
        SELECT "order" AS series, {_bin("p", 0, 1)} AS bin, count(*) AS n
        FROM (SELECT "order", {_P_A} AS p FROM judgements) WHERE NOT isnan(p) GROUP BY ALL
    """
    return _histogram(tables.rows(query, "judgements"), 0, 1, ORDERS)


def _p_chosen(tables: _Tables) -> Histogram | None:
    query = (
        f"SELECT 'pairs' AS series, {_bin('p_chosen', 0.5, 1)} AS bin, count(*) AS n FROM preference_pairs GROUP BY ALL"
    )
    return _histogram(tables.rows(query, "preference_pairs"), 0.5, 1, {"pairs": "pairs"})


def _rewards(tables: _Tables) -> Histogram | None:
    """Rewards of the held-out pairs; None in tables of older versions."""
    query = """
        SELECT reward_low, reward_high, chosen_rewards, rejected_rewards FROM reward_model_evaluation
        WHERE slice = 'all' AND chosen_rewards IS NOT NULL
    """
    for row in tables.rows(query, "reward_model_evaluation"):
        counts = {"chosen": row["chosen_rewards"], "rejected": row["rejected_rewards"]}
        return Histogram(row["reward_low"], row["reward_high"], counts)
    return None


def _rewards_of_picked(tables: _Tables) -> Histogram | None:
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


def _bias(tables: _Tables) -> Bias | None:
    if not tables.have("judgements"):
        return None
    by_order = f"""
        SELECT "order", count(*) AS n, avg(p) AS p_a, avg(mass) AS mass
        FROM (SELECT "order", {_P_A} AS p, exp(logp_a) + exp(logp_b) AS mass FROM judgements)
        WHERE NOT isnan(p) GROUP BY ALL ORDER BY "order"
    """
    orders = tables.rows(by_order, "judgements")
    count = sum(row["n"] for row in orders)
    (swapped,) = tables.rows(f"SELECT avg(CASE WHEN same THEN 1 ELSE 0 END) AS same FROM ({_SWAPPED})", "judgements")
    mass = sum(row["mass"] * row["n"] for row in orders) / count if count else None
    return Bias(
        judgements=count,
        mean_p_a={ORDERS[row["order"]]: row["p_a"] for row in orders},
        label_mass=mass,
        same_letter=swapped["same"],
        **_length_bias(tables),
        by_principle=_by_principle(tables),
    )


# Pairs and principles judged in both orders: whether the verdict is the same letter both times.
_SWAPPED = """
    SELECT pair_id, principle_id, abs(sum(sign(logp_a - logp_b))) = 2 AS same FROM judgements
    GROUP BY pair_id, principle_id HAVING count(*) = 2
"""


def _length_bias(tables: _Tables) -> dict[str, Any]:
    """How often the longer completion is preferred, by how much longer it is."""
    begin = ", ".join(str(ratio) for ratio in LENGTH_RATIOS)
    p_0 = f"""CASE WHEN "order" = '01' THEN {_P_A} ELSE 1 - {_P_A} END"""
    query = f"""
        SELECT list_max(list_filter([{begin}], one -> one <= ratio)) AS ratio, count(*) AS pairs, avg(longer) AS p,
            sum(CASE WHEN longer > 0.5 THEN 1 WHEN longer = 0.5 THEN 0.5 ELSE 0 END) AS preferred
        FROM (
            SELECT greatest(a, b) / least(a, b) AS ratio, CASE WHEN a > b THEN p_0 ELSE 1 - p_0 END AS longer
            FROM (SELECT pair_id, length(completion_0) AS a, length(completion_1) AS b FROM response_pairs)
            JOIN (
                SELECT pair_id, avg(p_0) AS p_0 FROM (
                    SELECT pair_id, principle_id, avg({p_0}) AS p_0 FROM judgements
                    WHERE NOT isnan({_P_A}) GROUP BY pair_id, principle_id
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


def _by_principle(tables: _Tables) -> list[dict[str, Any]]:
    query = f"""
        SELECT coalesce(c.slug, 'several together') AS slug, sum(n)::BIGINT AS judgements, sum(p_a * n) / sum(n) AS p_a,
            avg(same) AS same_letter
        FROM (
            SELECT principle_id, count(*) AS n, avg({_P_A}) AS p_a FROM judgements WHERE NOT isnan({_P_A}) GROUP BY ALL
        ) LEFT JOIN (SELECT principle_id, avg(CASE WHEN same THEN 1 ELSE 0 END) AS same FROM ({_SWAPPED}) GROUP BY ALL)
            USING (principle_id)
        LEFT JOIN constitution c USING (principle_id) GROUP BY 1 ORDER BY judgements DESC, slug LIMIT {MOST_ROWS}
    """
    return tables.rows(query, "judgements", "constitution")


def _calibration(tables: _Tables) -> Calibration | None:
    from cai_dagster.calibration import reliability

    slices = _ordered(tables, "judge_calibration", "slice, slice_value")
    if not slices or not tables.have("calibration_judgements", "human_preferences"):
        return None
    judged = tables.query("FROM calibration_judgements", "calibration_judgements")
    compared = "SELECT h.* FROM human_preferences h SEMI JOIN calibration_judgements USING (pair_id)"
    bins = reliability(judged, tables.query(compared, "human_preferences", "calibration_judgements"))
    return Calibration(slices, [(one.confidence, one.agreement, one.share) for one in bins])


def _checkpoints(tables: _Tables) -> list[CheckpointRecord]:
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


def _ordered(tables: _Tables, name: str, by: str) -> list[dict[str, Any]]:
    return tables.rows(f"FROM {name} ORDER BY {by} LIMIT {MOST_ROWS}", name)


def _spent(tables: _Tables) -> dict[str, Row]:
    query = """
        SELECT table_name, constitution_version, count(*) AS runs, sum(ledger_misses)::BIGINT AS calls,
            sum(prompt_tokens + completion_tokens)::BIGINT AS tokens, sum(seconds) AS seconds
        FROM rows GROUP BY ALL
    """
    return {row["table_name"]: row for row in tables.of_version("materializations", query).iter_rows(named=True)}


def _checks(tables: _Tables) -> list[dict[str, Any]]:
    """The latest result of each check, with `runs`: how often it has run; those that failed first, then warnings."""
    query = """
        SELECT *, count(*) OVER (PARTITION BY table_name, check_name, constitution_version) AS runs FROM rows
        QUALIFY row_number() OVER (
            PARTITION BY table_name, check_name, constitution_version ORDER BY checked_at DESC) = 1
    """
    results = tables.of_version("check_results", query).sort("passed", "severity", "table_name", "check_name")
    return results.head(MOST_ROWS).to_dicts()


def _dialogue_count(tables: _Tables) -> int:
    query = "SELECT count(DISTINCT (prompt_id, sample)) AS n FROM revision_rounds"
    return sum(row["n"] for row in tables.rows(query, "revision_rounds"))


def _dialogues(tables: _Tables) -> list[Dialogue]:
    """A seeded sample in which every principle and every category comes up before any comes up twice."""
    query = f"""
        SELECT d.prompt_id, d.sample, any_value(p.category) AS category, any_value(p.messages) AS messages,
            {_left("arg_min(r.response, r.round)")} AS response,
            list({{round: r.round, slug: c.slug, critique: {_left("r.critique")}, before: {_left("r.response")},
                after: {_left("r.revision")}}} ORDER BY r.round) AS rounds
        FROM (
            SELECT prompt_id, sample, least(min(of_principle), min(of_category)) AS place, min(draw) AS draw FROM (
                SELECT prompt_id, sample, draw,
                    row_number() OVER (PARTITION BY principle_id ORDER BY draw) AS of_principle,
                    row_number() OVER (PARTITION BY category ORDER BY draw) AS of_category
                FROM (SELECT *, {_draw("prompt_id, sample")} AS draw FROM revision_rounds)
                JOIN (SELECT prompt_id, category FROM prompts) USING (prompt_id)
            ) GROUP BY prompt_id, sample ORDER BY place, draw LIMIT {MOST_DIALOGUES}
        ) d JOIN revision_rounds r USING (prompt_id, sample) JOIN prompts p USING (prompt_id)
        JOIN constitution c USING (principle_id)
        GROUP BY d.prompt_id, d.sample, d.place, d.draw ORDER BY d.place, d.draw
    """
    rows = tables.rows(query, "revision_rounds", "prompts", "constitution")
    return _within(DIALOGUES_BYTES, map(_dialogue, rows), _dialogue_texts)


def _dialogue(row: Row) -> Dialogue:
    rounds = [
        Revision(one["round"], one["slug"], *(_cut(one[name]) for name in ("critique", "before", "after")))
        for one in row["rounds"]
    ]
    return Dialogue(row["prompt_id"], _category(row), _turns(row["messages"]), _cut(row["response"]), rounds)


def _pairs(tables: _Tables) -> list[LabelledPair]:
    """A seeded sample in which every fifth of P(chosen) comes up before any comes up twice."""
    query = f"""
        SELECT l.pair_id, p.category, l.prompt, {_left("l.chosen[1].content")} AS chosen,
            {_left("l.rejected[1].content")} AS rejected, l.p_chosen, l.label_policy
        FROM preference_pairs l LEFT JOIN prompts p USING (prompt_id) SEMI JOIN (
            SELECT pair_id FROM (
                SELECT pair_id, {_draw("pair_id")} AS draw, least(4, floor((p_chosen - 0.5) * 10)) AS fifth
                FROM preference_pairs
            ) ORDER BY row_number() OVER (PARTITION BY fifth ORDER BY draw), draw LIMIT {MOST_PAIRS}
        ) s ON s.pair_id = l.pair_id ORDER BY l.p_chosen DESC, l.pair_id
    """
    rows = tables.rows(query, "preference_pairs", "prompts")
    return _within(PAIRS_BYTES, map(_labelled_pair, rows), _pair_texts)


def _labelled_pair(row: Row) -> LabelledPair:
    texts = (_cut(row["chosen"]), _cut(row["rejected"]))
    return LabelledPair(
        row["pair_id"], _category(row), _turns(row["prompt"]), *texts, row["p_chosen"], row["label_policy"]
    )


def _draw(key: str) -> str:
    """SQL for a number that is drawn for a row: the same in every report."""
    return f"md5(concat_ws('/', {SEED}, {key}))"


def _left(text: str) -> str:
    return f"left({text}, {LONGEST_EXAMPLE + 1})"


def _cut(text: str, most: int = LONGEST_EXAMPLE) -> str:
    return text if len(text) <= most else text[:most] + "…"


def _category(row: Row) -> str:
    return _cut(row["category"] or "none", 80)


def _turns(messages: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    turns = [(turn["role"], _cut(turn["content"])) for turn in messages[-MOST_TURNS:]]
    left_out = len(messages) - len(turns)
    return [("…", f"{left_out} earlier turns"), *turns] if left_out else turns


def _shortened_principle(row: dict[str, Any]) -> dict[str, Any]:
    tags = [_cut(tag, 80) for tag in row["tags"][:10]]
    return {
        **{name: row[name] for name in ("slug", "principle_id", "weight")},
        "tags": tags,
        **{name: _cut(row[name], LONGEST_REQUEST) for name in REQUESTS},
    }


def _within(most_bytes: int, examples: Iterable[Example], texts: Callable[[Example], Iterable[str]]) -> list[Example]:
    """The first examples whose texts, as they are shown, have together at most so many bytes."""
    total = 0
    kept: list[Example] = []
    for example in examples:
        total += sum(len(escape(printable(text)).encode()) for text in texts(example))
        if total > most_bytes:
            break
        kept.append(example)
    return kept


def _principle_texts(principle: Row) -> list[str]:
    return [*principle["tags"], *(principle[name] for name in REQUESTS)]


def _dialogue_texts(dialogue: Dialogue) -> list[str]:
    revised = [text for one in dialogue.rounds for text in (one.critique, one.before, one.after)]
    return [dialogue.category, *(text for _, text in dialogue.prompt), dialogue.response, *revised]


def _pair_texts(pair: LabelledPair) -> list[str]:
    return [pair.category, *(text for _, text in pair.prompt), pair.chosen, pair.rejected]
