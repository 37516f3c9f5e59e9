"""`cai diff`: compare two constitution versions."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cai_dagster.commands.completion import complete_version
from cai_dagster.commands.options import version_named
from cai_dagster.constitution.versions import ConstitutionError, file_of_version
from cai_dagster.home import Home
from cai_dagster.project import CONSTITUTIONS


def diff(
    before: Annotated[
        str,
        typer.Argument(
            help="The earlier version; where it stands alone, the later one, compared with its base.",
            autocompletion=complete_version,
            callback=version_named,
        ),
    ],
    after: Annotated[
        str | None,
        typer.Argument(help="The later version.", autocompletion=complete_version, callback=version_named),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that opens from disk.", dir_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    examples: Annotated[int, typer.Option(min=0, max=100, help="Examples of each kind of change.")] = 5,
    judge: Annotated[
        bool,
        typer.Option("--judge", help="First have the feedback model compare the final revisions; paid for once."),
    ] = False,
) -> None:
    """Compare two versions: edits, rows, labels, win rate, cost."""
    from cai_dagster.checks.history import read_history
    from cai_dagster.commands.dagster_process import materialize
    from cai_dagster.compare.version_tables import constitutions_to_compare, diff_versions
    from cai_dagster.compare.views import page, print_diff
    from cai_dagster.lake.lake import Lake
    from cai_dagster.pages.html import write_page
    from cai_dagster.settings import active_settings

    if after is None:
        before, after = _base(before), before
    settings = active_settings().constitution_diff.model_copy(update={"examples": examples})
    lake, constitutions = Lake(Home.existing()), CONSTITUTIONS
    if judge:
        # What is judged replaces the judgements that are there, so that it is never begun for a wrong name.
        constitutions_to_compare(lake, before, after, constitutions)
        lake.close()
        materialize("version_judgements", after, {"version_judgements": {"against": before}})
    made = diff_versions(lake, before, after, constitutions, settings)
    if html:
        write_page(html, page(made, read_history(lake, [before, after])))
    if as_json:
        sys.stdout.write(json.dumps(made.to_json(), indent=2) + "\n")
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    if html:
        console.print(f"{html}: the comparison as a page", markup=False, soft_wrap=True)
    else:
        print_diff(made, console)


def _base(version: str) -> str:
    from cai_dagster.constitution.bases import base_of

    file_of_version(CONSTITUTIONS, version)
    if (base := base_of(CONSTITUTIONS, version)) is None:
        raise ConstitutionError(f"{version} is the first version: there is none to compare it with; name two")
    return base
