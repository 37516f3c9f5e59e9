"""`cai doctor`: what is wrong here, and the command that mends it."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cai_dagster.commands.options import version_option
from cai_dagster.commands.output import print_json
from cai_dagster.commands.preflight import findings_of_run
from cai_dagster.home import Home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cai_dagster.upkeep.findings import Finding, Level
    from cai_dagster.upkeep.leftovers import Leftovers
    from cai_dagster.upkeep.salvage import Salvaged

_STYLES = {"good": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    version: Annotated[
        list[str] | None,
        version_option("Say too whether a run of this constitution version can finish; once for each."),
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

    home = Home.from_environment()
    mended = _mend(home, mend, salvage)
    findings = examine(home, full)
    if version:
        findings += findings_of_run(version)
    problems = _count(findings, Level.problem)
    if as_json:
        counts = {"problems": problems, "warnings": _count(findings, Level.warning)}
        print_json(
            {
                "home": str(home.root),
                **counts,
                **mended.to_json(),
                "findings": [finding.to_json() for finding in findings],
            }
        )
    else:
        _print(mended.lines, findings)
    if problems:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Mended:
    """What was done before looking; None and nothing where it was not asked for."""

    removed: "Leftovers | None"
    filters: "Sequence[str]"
    salvaged: "Salvaged | None"

    def to_json(self) -> dict[str, Any]:
        removed = (*self.removed.orphans, *self.removed.scratch) if self.removed else ()
        return {
            "removed": [str(path) for path in removed],
            "mended_filters": list(self.filters),
            "salvaged": self.salvaged.to_json() if self.salvaged else None,
        }

    @property
    def lines(self) -> list[str]:
        lines: list[str] = []
        if self.removed:
            files, folders = len(self.removed.orphans), len(self.removed.scratch)
            lines.append(f"removed {files:,} files and {folders:,} scratch folders")
        if self.filters:
            lines.append(f"filters find every row again of {', '.join(self.filters)}")
        return [*lines, *([str(self.salvaged)] if self.salvaged else [])]


def _mend(home: Home, mend: bool, salvage: bool) -> _Mended:
    from cai_dagster.upkeep.leftovers import remove_leftovers
    from cai_dagster.upkeep.salvage import salvage_ledger
    from cai_dagster.upkeep.tables import mend_filters

    return _Mended(
        remove_leftovers(home) if mend else None,
        mend_filters(home) if mend else [],
        salvage_ledger(home) if salvage else None,
    )


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
