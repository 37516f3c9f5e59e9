"""`cai checks`: what each data-quality check found, its bound, and what to do."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cai_dagster.commands.options import Versions
from cai_dagster.commands.output import console, print_json
from cai_dagster.home import Home
from cai_dagster.text import printable

if TYPE_CHECKING:
    from cai_dagster.checks.outcomes import LatestResult

_STYLES = {"passed": "green", "warned": "yellow", "failed": "bold red"}


def checks(
    version: Versions = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed or warned.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what each check found: value, bound, advice."""
    from cai_dagster.upkeep.status import latest_results

    found = latest_results(Home.existing(), version or ())
    if failed:
        found = [one for one in found if one.outcome.is_bad]
    if as_json:
        print_json([_json(one) for one in found])
    else:
        _print(found, failed, console())


def _json(result: "LatestResult") -> dict[str, Any]:
    return {**asdict(result), "outcome": result.outcome.value, "advice": result.advice}


def _print(found: "Sequence[LatestResult]", failed: bool, to: Console) -> None:
    if not found:
        to.print("No check failed or warned." if failed else "No check has run yet.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("version", "check", "result"):
        table.add_column(name, no_wrap=True)
    table.add_column("value")
    table.add_column("bound")
    for one in found:
        outcome = Text(one.outcome.value, _STYLES.get(one.outcome.value, "dim"))
        table.add_row(printable(one.version or "(shared)"), one.name, outcome, one.measured, one.bounds)
    to.print(table)
    for name, advice in {one.name: one.advice for one in found if one.outcome.is_bad}.items():
        to.print(Text.assemble((f"{name}: ", "bold"), printable(advice)))
