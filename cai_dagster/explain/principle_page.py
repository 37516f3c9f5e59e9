"""A principle across versions: its texts, where it was drawn, what its judgements decided, what it changed.

It answers from the lake as it is and knows no page and no terminal.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.judging.label_statistics import IS_VERDICT, P_A, P_COMPLETION_0
from cai_dagster.lake.reader import LakeReader, Row
from cai_dagster.text import did_you_mean

TEXTS = ("critique_request", "revision_request", "comparison_request")
BINS = 10  # of P(completion_0 is better)

_EDITIONS = """
    SELECT principle_id, critique_request, revision_request, comparison_request,
        list({version: constitution_version, weight: weight} ORDER BY snapshot_id) AS uses
    FROM lake.constitution WHERE slug = $slug GROUP BY ALL ORDER BY min(snapshot_id)
"""
_DRAWS = """
    SELECT constitution_version, round, count(*) FILTER (principle_id IN ($ids)) AS drawn, count(*) AS rows
    FROM lake.revision_rounds WHERE $version IN ('', constitution_version)
    GROUP BY ALL HAVING drawn > 0 ORDER BY ALL
"""
# P(completion_0 is better) of each pair under each principle, averaged over the orders; as label_policies has it.
_VERDICTS = f"""
    verdicts AS (
        SELECT constitution_version, pair_id, list_contains([$ids], one) AS ours,
            avg(p_0) AS p_0, count(*) AS orders, count(DISTINCT p_0 > 0.5) = 1 AS orders_agree, avg(p_a) AS p_a
        FROM (
            SELECT constitution_version, pair_id, principle_id, unnest(principle_ids) AS one,
                {P_A} AS p_a, {P_COMPLETION_0} AS p_0
            FROM lake.judgements WHERE $version IN ('', constitution_version) AND {IS_VERDICT}
        ) GROUP BY constitution_version, pair_id, one
    )
"""
_DECISIONS = f"""
    WITH {_VERDICTS},
    pairs AS (
        SELECT constitution_version, pair_id, bool_or(ours) AS judged, avg(p_0) AS p_all,
            avg(p_0) FILTER (ours) AS p_ours, avg(p_0) FILTER (NOT ours) AS p_others,
            bool_and(orders_agree) FILTER (ours AND orders > 1) AS orders_agree, avg(p_a) FILTER (ours) AS p_a
        FROM verdicts GROUP BY ALL
    )
    SELECT constitution_version, count(*) AS pairs, count(*) FILTER (judged) AS judged,
        count(*) FILTER (judged AND p_others IS NULL) AS alone,
        count(*) FILTER (p_ours IS NOT NULL AND p_others IS NOT NULL AND (p_all > 0.5) <> (p_others > 0.5)) AS flipped,
        avg(abs(p_ours - 0.5)) AS certainty, avg(orders_agree::INTEGER) AS orders_agree, avg(p_a) AS p_a,
        list(least({BINS - 1}, floor(p_ours * {BINS}))::INTEGER) FILTER (judged) AS bins
    FROM pairs GROUP BY constitution_version HAVING judged > 0 ORDER BY constitution_version
"""
_CALIBRATION = """
    SELECT constitution_version, feedback_model, pairs, agreement, agreement_low, agreement_high, log_loss,
        position_bias, length_bias
    FROM lake.judge_calibration WHERE slice = 'principle' AND slice_value = $slug
        AND $version IN ('', constitution_version) ORDER BY constitution_version
"""
_REVISIONS = """
    SELECT constitution_version, prompt_id, sample, round, source, category, messages, response, critique, revision
    FROM lake.revision_rounds JOIN lake.prompts USING (prompt_id)
    WHERE principle_id IN ($ids) AND revision <> response AND constitution_version = $version
    ORDER BY md5(prompt_id), sample, round
"""
_PAIRS = f"""
    WITH {_VERDICTS}
    SELECT constitution_version, pair_id, prompt_id, messages, completion_0, completion_1, p_0
    FROM verdicts JOIN lake.response_pairs USING (constitution_version, pair_id) JOIN lake.prompts USING (prompt_id)
    WHERE ours ORDER BY abs(p_0 - 0.5) DESC, pair_id
"""


class NoSuchPrincipleError(MendableError):
    """No constitution in the lake has the principle; the message names those there are."""


@dataclass(frozen=True)
class Edition:
    """One wording of a principle, and the versions that have it with their weights."""

    principle_id: str
    weights: dict[str, float]
    critique_request: str
    revision_request: str
    comparison_request: str


@dataclass(frozen=True)
class Draws:
    """How often the principle was drawn in one round of one version, of all draws there."""

    constitution_version: str
    round: int
    drawn: int
    of: int


@dataclass(frozen=True)
class Decisions:
    """What the judgements under the principle did to a version's labels.

    `judged` of `pairs` were judged under it, `alone` of them under no other; `flipped`: the label is another than that
    of the other principles alone. `histogram`: pairs by P(completion_0 is better) under it, in ten bins.
    """

    constitution_version: str
    pairs: int
    judged: int
    alone: int
    flipped: int
    certainty: float
    orders_agree: float | None
    p_a: float
    histogram: Sequence[int]


@dataclass(frozen=True)
class Agreement:
    """The feedback model under this principle against people: a row of judge_calibration."""

    constitution_version: str
    feedback_model: str
    pairs: int
    agreement: float
    agreement_low: float | None
    agreement_high: float | None
    log_loss: float | None
    position_bias: float | None
    length_bias: float | None


@dataclass(frozen=True)
class RevisionExample:
    """A response before and after a revision under the principle."""

    constitution_version: str
    prompt_id: str
    sample: int
    round: int
    source: str
    category: str | None
    messages: Sequence[dict[str, str]]
    response: str
    critique: str
    revision: str


@dataclass(frozen=True)
class PairExample:
    """A pair and P(completion_0 is better) under the principle."""

    constitution_version: str
    pair_id: str
    prompt_id: str
    messages: Sequence[dict[str, str]]
    completion_0: str
    completion_1: str
    p_0: float


@dataclass(frozen=True)
class PrinciplePage:
    """All that is known of one principle; `constitution_version` is None where all versions are told of."""

    slug: str
    constitution_version: str | None
    editions: Sequence[Edition]
    draws: Sequence[Draws]
    decisions: Sequence[Decisions]
    agreements: Sequence[Agreement]
    revisions: Sequence[RevisionExample]
    pairs: Sequence[PairExample]

    def to_json(self) -> dict[str, Any]:
        """As `cai principle --json` prints it; docs/explain.md describes the keys."""
        return asdict(self)


def principle_page(home: Home, slug: str, constitution_version: str | None, examples: int) -> PrinciplePage:
    """Everything about a principle, in one version or in all, with so many examples of each kind.

    Raises NoSuchPrincipleError where no version (or not that one) has a principle of that slug.
    """
    reader = LakeReader(home)
    editions = [_edition(row) for row in reader.rows(_EDITIONS, slug=slug)]
    versions = [version for edition in editions for version in edition.weights]
    if constitution_version not in (None, *versions) or not editions:
        raise NoSuchPrincipleError(_which(reader, slug, constitution_version, versions))
    ids = [edition.principle_id for edition in editions]
    version = constitution_version or ""
    shown = constitution_version or _last_drawn(reader, ids) or versions[-1]
    some = f"LIMIT {examples}"
    return PrinciplePage(
        slug=slug,
        constitution_version=constitution_version,
        editions=editions,
        draws=[Draws(*row.values()) for row in reader.rows(_DRAWS, ids=ids, version=version)],
        decisions=[_decisions(row) for row in reader.rows(_DECISIONS, ids=ids, version=version)],
        agreements=[Agreement(**row) for row in reader.rows(_CALIBRATION, slug=slug, version=version)],
        revisions=[RevisionExample(**row) for row in reader.rows(f"{_REVISIONS} {some}", ids=ids, version=shown)],
        pairs=[PairExample(**row) for row in reader.rows(f"{_PAIRS} {some}", ids=ids, version=shown)],
    )


def _edition(row: Row) -> Edition:
    weights = {use["version"]: use["weight"] for use in row["uses"]}
    return Edition(row["principle_id"], weights, *(row[name] for name in TEXTS))


def _decisions(row: Row) -> Decisions:
    bins: list[int] = row.pop("bins")
    return Decisions(**row, histogram=[bins.count(number) for number in range(BINS)])


def _last_drawn(reader: LakeReader, ids: Sequence[str]) -> str | None:
    query = "SELECT constitution_version AS v FROM lake.revision_rounds WHERE principle_id IN ($ids)"
    rows = reader.rows(f"{query} ORDER BY snapshot_id DESC LIMIT 1", ids=ids)
    return rows[0]["v"] if rows else None


def _which(reader: LakeReader, slug: str, version: str | None, versions: Sequence[str]) -> str:
    if versions:
        return f"the principle {slug!r} is not in constitution version {version!r}; it is in {', '.join(versions)}"
    slugs = [row["slug"] for row in reader.rows("SELECT DISTINCT slug FROM lake.constitution ORDER BY slug")]
    there = ", ".join(slugs) or "none: materialize the asset constitution first"
    like = did_you_mean(slug, slugs)
    return f"no constitution that was materialized has the principle {slug!r}. There are {there}{like}"
