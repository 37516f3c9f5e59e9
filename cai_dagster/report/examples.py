"""Examples of one constitution version for its report: dialogues with their revisions, labelled pairs, principles.

They are samples drawn by a hash, so that the same tables show the same ones, and their texts are cut. How many of them
are shown, and how, is not known here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cai_dagster.report.tables import EARLIER_WORDING, ReportTables
from cai_dagster.text import cut

Row = Mapping[str, Any]

MOST_DIALOGUES = 40
MOST_PAIRS = 12
MOST_TURNS = 8
LONGEST_EXAMPLE = 2_400  # characters of one text of an example
LONGEST_REQUEST = 1_000  # characters of one text of a principle
LONGEST_NAME = 80
SEED = 0
REQUESTS = ("critique_request", "revision_request", "comparison_request")
MOST_TAGS = 10
_ROUND_TEXTS = ("critique", "before", "after")
GONE = ("…", "its prompt is no longer in the table prompts")  # in place of a turn


@dataclass(frozen=True)
class Revision:
    """One round of a dialogue."""

    number: int
    principle: str
    critique: str
    before: str
    after: str


@dataclass(frozen=True)
class RevisedDialogue:
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


def dialogue_count(tables: ReportTables) -> int:
    """How many dialogues there are to draw from."""
    query = "SELECT count(DISTINCT (prompt_id, sample)) AS n FROM revision_rounds"
    return sum(row["n"] for row in tables.rows(query, "revision_rounds"))


def dialogues(tables: ReportTables) -> list[RevisedDialogue]:
    """A seeded sample in which every principle and every category comes up before any comes up twice.

    Rounds stay whatever has become of their principle, and dialogues whatever has become of their prompt.
    """
    query = f"""
        SELECT d.prompt_id, d.sample, any_value(p.category) AS category, any_value(p.messages) AS messages,
            {_left("arg_min(r.response, r.round)")} AS response,
            list({{round: r.round, slug: coalesce(c.slug, {EARLIER_WORDING}), critique: {_left("r.critique")},
                before: {_left("r.response")}, after: {_left("r.revision")}}} ORDER BY r.round) AS rounds
        FROM (
            SELECT prompt_id, sample, least(min(of_principle), min(of_category)) AS place, min(draw) AS draw FROM (
                SELECT prompt_id, sample, draw,
                    row_number() OVER (PARTITION BY principle_id ORDER BY draw) AS of_principle,
                    row_number() OVER (PARTITION BY category ORDER BY draw) AS of_category
                FROM (SELECT *, {_draw("prompt_id, sample")} AS draw FROM revision_rounds)
                LEFT JOIN (SELECT prompt_id, category FROM prompts) USING (prompt_id)
            ) GROUP BY prompt_id, sample ORDER BY place, draw LIMIT {MOST_DIALOGUES}
        ) d JOIN revision_rounds r USING (prompt_id, sample) LEFT JOIN prompts p USING (prompt_id)
        LEFT JOIN constitution c USING (principle_id)
        GROUP BY d.prompt_id, d.sample, d.place, d.draw ORDER BY d.place, d.draw
    """
    rows = tables.rows(query, "revision_rounds", "prompts", "constitution")
    return [_dialogue(row) for row in rows]


def _dialogue(row: Row) -> RevisedDialogue:
    rounds = [
        Revision(one["round"], one["slug"], *(cut(one[name], LONGEST_EXAMPLE) for name in _ROUND_TEXTS))
        for one in row["rounds"]
    ]
    response = cut(row["response"], LONGEST_EXAMPLE)
    return RevisedDialogue(row["prompt_id"], _category(row), _turns(row["messages"]), response, rounds)


def pairs(tables: ReportTables) -> list[LabelledPair]:
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
    return [_labelled_pair(row) for row in rows]


def _labelled_pair(row: Row) -> LabelledPair:
    texts = (cut(row["chosen"], LONGEST_EXAMPLE), cut(row["rejected"], LONGEST_EXAMPLE))
    return LabelledPair(
        row["pair_id"], _category(row), _turns(row["prompt"]), *texts, row["p_chosen"], row["label_policy"]
    )


def _draw(key: str) -> str:
    """SQL for a number that is drawn for a row: the same in every report."""
    return f"md5(concat_ws('/', {SEED}, {key}))"


def _left(text: str) -> str:
    return f"left({text}, {LONGEST_EXAMPLE + 1})"


def _category(row: Row) -> str:
    return cut(row["category"] or "none", LONGEST_NAME)


def _turns(messages: Sequence[Mapping[str, str]] | None) -> list[tuple[str, str]]:
    if messages is None:
        return [GONE]
    turns = [
        (cut(turn["role"], LONGEST_NAME), cut(turn["content"], LONGEST_EXAMPLE)) for turn in messages[-MOST_TURNS:]
    ]
    left_out = len(messages) - len(turns)
    return [("…", f"{left_out} earlier turns"), *turns] if left_out else turns


def shortened_principle(row: Row) -> dict[str, Any]:
    """A row of `constitution` with the beginning of its texts."""
    return {
        **{name: row[name] for name in ("slug", "principle_id", "weight")},
        "tags": [cut(tag, LONGEST_NAME) for tag in row["tags"][:MOST_TAGS]],
        **{name: cut(row[name], LONGEST_REQUEST) for name in REQUESTS},
    }
