"""`cai doctor`: what is wrong here, and the command that mends it."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from cai_dagster.commands.completion import complete_version
from cai_dagster.commands.options import version_named
from cai_dagster.commands.preflight import findings_of_run
from cai_dagster.home import Home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cai_dagster.upkeep.findings import Finding, Level

_STYLES = {"good": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    version: Annotated[
        list[str] | None,
        typer.Option(
            help="Say too whether a run of this constitution version can finish; once for each.",
            autocompletion=complete_version,
            callback=version_named,
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Hash the weights anew, read every row, ask torch what it sees: up to a minute more."
        ),
    ] = False,
    mend: Annotated[
        bool,
        typer.Option(
            "--mend",
            help="First remove files that no snapshot names, an hour old, and dead processes' scratch, and make "
            "filters find every row again.",
        ),
    ] = False,
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage",
            help="First make a damaged ledger anew, of the calls that can still be read and the texts in tables; "
            "the damaged one is kept beside it.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name what is wrong here, and the command that mends it.

    Looks at versions, models, machine, instance, settings, tables and ledger.

    Exit status 1 where there is a problem; warnings leave it 0.
    """
    from cai_dagster.upkeep.doctor import examine
    from cai_dagster.upkeep.findings import Level
    from cai_dagster.upkeep.leftovers import remove_leftovers
    from cai_dagster.upkeep.salvage import salvage_ledger
    from cai_dagster.upkeep.tables import mend_filters

    home = Home.from_environment()
    removed = remove_leftovers(home) if mend else None
    mended = mend_filters(home) if mend else []
    salvaged = salvage_ledger(home) if salvage else None
    findings = examine(home, full)
    if version:
        findings += findings_of_run(version)
    if as_json:
        document = {
            "home": str(home.root),
            "problems": _count(findings, Level.problem),
            "warnings": _count(findings, Level.warning),
            "removed": [str(path) for path in (*removed.orphans, *removed.scratch)] if removed else [],
            "mended_filters": mended,
            "salvaged": salvaged.to_json() if salvaged else None,
            "findings": [finding.to_json() for finding in findings],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        done: list[str] = []
        if removed:
            done.append(f"removed {len(removed.orphans):,} files and {len(removed.scratch):,} scratch folders")
        if mended:
            done.append(f"filters find every row again of {', '.join(mended)}")
        if salvaged:
            done.append(str(salvaged))
        _print(done, findings)
    if _count(findings, Level.problem):
        raise typer.Exit(1)


def _count(findings: "Sequence[Finding]", level: "Level") -> int:
    return sum(finding.level == level for finding in findings)


def _print(done: "Sequence[str]", findings: "Sequence[Finding]") -> None:
    """What was mended, each finding with its remedy, and how many there are."""
    from cai_dagster.text import printable
    from cai_dagster.upkeep.findings import Level

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    for text in done:
        console.print(text, soft_wrap=True, markup=False)
    for finding in findings:
        line = Text(f"{finding.level:8}", style=_STYLES[finding.level])
        line.append(f"{finding.topic}: {printable(finding.text)}", style="default")
        console.print(line, soft_wrap=True)
        if finding.remedy is not None:
            console.print(Text(f"{'':8}→ {printable(finding.remedy)}"), soft_wrap=True)
    counts = ((_count(findings, level), level) for level in (Level.problem, Level.warning))
    console.print(", ".join(f"{count} {level}{'s' * (count != 1)}" for count, level in counts))
