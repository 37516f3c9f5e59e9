"""The report of a constitution version: one HTML file that shows to anyone what was made, how, and how good it is.

It needs no network, opens from disk and prints. What it says comes from `report_facts`, its charts from
`report_charts`; how it looks is templates/report*.html. However long the texts are, it stays small: of the examples it
has as many as fit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from cai_dagster.checks.history import history_part
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.pages.html import render, render_part, write_page
from cai_dagster.report.charts import charts_of, curves_of, slice_name
from cai_dagster.report.examples import RevisedDialogue
from cai_dagster.report.facts import Facts, facts_of

TEMPLATE = "report.html"
DIALOGUES_BYTES, PAIRS_BYTES, PRINCIPLES_BYTES = 2_000_000, 500_000, 700_000  # of what is shown, with its markup


@dataclass(frozen=True)
class Report:
    """A report that was written."""

    path: Path
    bytes: int
    facts: Facts


def report_path(home: Home, version: str) -> Path:
    """Where the report of a version lies unless one says otherwise."""
    return home.reports / f"{version}.html"


def write_report(lake: Lake, version: str, path: Path) -> Report:
    """Make the report; the file is there whole, or as it was before.

    Raises LakeError where the version's constitution has never been materialized.
    """
    facts = facts_of(lake, version)
    page = report_page(facts, datetime.now(UTC))
    write_page(path, page)
    return Report(path, len(page.encode()), facts)


def report_page(facts: Facts, made_at: datetime) -> str:
    """The page as text."""
    principles = sorted({slug for dialogue in facts.dialogues for slug in dialogue.principles})
    categories = sorted({dialogue.category for dialogue in facts.dialogues})
    dialogues = _within(DIALOGUES_BYTES, _dialogues(facts.dialogues, principles, categories))
    pairs = (render_part("report_pair.html", pair=pair) for pair in facts.pairs)
    shown = (render_part("report_principle.html", principle=principle) for principle in facts.principles)
    return render(
        TEMPLATE,
        f"Constitution {facts.version}: report",
        script=_script(),
        facts=facts,
        charts=charts_of(facts),
        curves=curves_of(facts),
        figures=figures(facts),
        slice_name=slice_name,
        duels=_duels(facts),
        shown_principles=_within(PRINCIPLES_BYTES, shown),
        shown_dialogues=dialogues,
        shown_pairs=_within(PAIRS_BYTES, pairs),
        principles=_used(principles, (name for one in facts.dialogues[: len(dialogues)] for name in one.principles)),
        categories=_used(categories, (one.category for one in facts.dialogues[: len(dialogues)])),
        check_history=history_part(facts.check_history, [facts.version]) if facts.check_history.lines else None,
        made_at=made_at.strftime("%Y-%m-%d %H:%M UTC"),
    )


def figures(facts: Facts) -> dict[str, str]:
    """What one wants to know first; what is not known yet is left out."""
    rows = {stage.table: stage.rows for stage in facts.funnel}
    figures = {"principles": f"{len(facts.principles):,}"}
    figures |= {
        table.replace("_", " "): f"{rows[table]:,}" for table in ("prompts", "preference_pairs") if table in rows
    }
    if facts.bias and facts.bias.same_letter is not None:
        figures["same letter in both orders"] = f"{facts.bias.same_letter:.0%}"
    for row in facts.calibration.slices if facts.calibration else ():
        if row["slice"] == "all":
            figures["agreement with humans"] = f"{row['agreement']:.0%}"
    if facts.reward_model_evaluation:
        figures["reward model accuracy"] = f"{facts.reward_model_evaluation[0]['accuracy']:.0%}"
    if facts.checks:
        measured = [check for check in facts.checks if check["value"] is not None]
        passed = sum(check["passed"] and not check["outdated"] for check in measured)
        figures["checks passed"] = f"{passed} of {len(measured)}"
        if len(measured) < len(facts.checks):
            figures["checks not measured"] = f"{len(facts.checks) - len(measured)}"
    figures["tokens paid for"] = f"{sum(row['tokens'] for row in facts.spent.values()):,}"
    return figures


def _duels(facts: Facts) -> dict[str, dict[str, float]]:
    """The win rate of each policy against each other, the best policy first."""
    duels = {row["policy"]: dict[str, float]() for row in facts.policy_evaluation if row["opponent"] == "all"}
    for row in facts.policy_evaluation:
        if row["policy"] in duels and row["opponent"] in duels:
            duels[row["policy"]][row["opponent"]] = row["win_rate"]
    return duels if any(duels.values()) else {}


def _dialogues(
    dialogues: Sequence[RevisedDialogue], principles: Sequence[str], categories: Sequence[str]
) -> Iterator[Markup]:
    """Each as markup. The script tells them apart by numbers: names may have spaces."""
    for dialogue in dialogues:
        numbers = " ".join(str(principles.index(slug)) for slug in dialogue.principles)
        category = categories.index(dialogue.category)
        yield render_part("report_dialogue.html", dialogue=dialogue, principles=numbers, category=category)


def _used(names: Sequence[str], used: Iterable[str]) -> list[tuple[int, str]]:
    """The names that are in use, each with its number."""
    kept = set(used)
    return [(number, name) for number, name in enumerate(names) if name in kept]


def _within(most_bytes: int, parts: Iterable[Markup]) -> list[Markup]:
    """The first of them that have together at most so many bytes."""
    total = 0
    kept: list[Markup] = []
    for part in parts:
        total += len(part.encode())
        if total > most_bytes:
            break
        kept.append(part)
    return kept


def _script() -> str:
    return (Path(__file__).parent.parent / "pages" / "templates" / "report.js").read_text(encoding="utf-8")
