"""The report of a constitution version: one HTML file that shows to anyone what was made, how, and how good it is.

It needs no network, opens from disk and prints. What it says comes from `report_facts`, its charts from
`report_charts`; how it looks is templates/report.html.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cai_dagster.home import Home
from cai_dagster.lake import Lake
from cai_dagster.pages import render, write_page
from cai_dagster.report_charts import charts_of, curves_of
from cai_dagster.report_facts import Facts, facts_of

TEMPLATE = "report.html"


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
    return render(
        TEMPLATE,
        f"Constitution {facts.version}: report",
        script=_script(),
        facts=facts,
        charts=charts_of(facts),
        curves=curves_of(facts),
        figures=figures(facts),
        principles=principles,
        categories=categories,
        made_at=made_at.strftime("%Y-%m-%d %H:%M UTC"),
    )


def figures(facts: Facts) -> dict[str, str]:
    """What one wants to know first; what is not known yet is left out."""
    rows = {stage.table: stage.rows for stage in facts.funnel}
    figures = {"principles": f"{len(facts.principles) + facts.principles_left_out:,}"}
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
        figures["checks passed"] = f"{sum(check['passed'] for check in facts.checks)} of {len(facts.checks)}"
    figures["tokens paid for"] = f"{sum(row['tokens'] for row in facts.spent.values()):,}"
    return figures


def _script() -> str:
    return (Path(__file__).parent / "templates" / "report.js").read_text(encoding="utf-8")
