"""`cai summary`: an example, its labels, evaluation and cost of a version."""

from typing import Annotated

import typer

from cai_dagster.commands.lake import lake_to_read
from cai_dagster.commands.options import Version
from cai_dagster.commands.output import console, print_json


def summary(
    version: Version = "v1",
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, without examples.")] = False,
) -> None:
    """Show an example, its labels, evaluation and cost of a version."""
    from cai_dagster.report.summary import print_summary, summary_json

    lake = lake_to_read()
    if as_json:
        print_json(summary_json(lake, version))
    else:
        print_summary(lake, version, console())
