"""`cai doctor`: what is wrong here, and the command that mends it."""

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cai_dagster.home import Home

_STYLES = {"good": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
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
    from cai_dagster.text import printable
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
    counts = {level: sum(finding.level == level for finding in findings) for level in Level}
    if as_json:
        document = {
            "home": str(home.root),
            "problems": counts[Level.problem],
            "warnings": counts[Level.warning],
            "removed": [str(path) for path in (*removed.orphans, *removed.scratch)] if removed else [],
            "mended_filters": mended,
            "salvaged": salvaged.to_json() if salvaged else None,
            "findings": [finding.to_json() for finding in findings],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
        if removed:
            console.print(f"removed {len(removed.orphans):,} files and {len(removed.scratch):,} scratch folders")
        if mended:
            console.print(f"filters find every row again of {', '.join(mended)}")
        if salvaged:
            console.print(str(salvaged), soft_wrap=True)
        for finding in findings:
            line = Text(f"{finding.level:8}", style=_STYLES[finding.level])
            line.append(f"{finding.topic}: {printable(finding.text)}", style="default")
            console.print(line, soft_wrap=True)
            if finding.remedy is not None:
                console.print(Text(f"{'':8}→ {printable(finding.remedy)}"), soft_wrap=True)
        counted = (f"{counts[level]} {level}{'s' * (counts[level] != 1)}" for level in (Level.problem, Level.warning))
        console.print(", ".join(counted))
    if counts[Level.problem]:
        raise typer.Exit(1)
