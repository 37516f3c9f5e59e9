"""`cai report`: a constitution version as one HTML page."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cai_dagster.commands.completion import complete_version
from cai_dagster.commands.lake import lake_to_read
from cai_dagster.commands.options import version_named
from cai_dagster.home import Home


def report(
    version: Annotated[
        str,
        typer.Argument(
            help="Constitution version, such as v1.", autocompletion=complete_version, callback=version_named
        ),
    ] = "v1",
    output: Annotated[
        Path | None, typer.Option(help="File to write; CAI_HOME/reports/VERSION.html without it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print where it is as JSON.")] = False,
) -> None:
    """Write a version's report: one HTML file to show to someone."""
    from cai_dagster.report.page import report_path, write_report

    home = Home.existing()
    path = report_path(home, version) if output is None else output.absolute()
    written = write_report(lake_to_read(), version, path)
    if as_json:
        facts = {"path": str(written.path), "bytes": written.bytes, "snapshot_id": written.facts.snapshot_id}
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        size = f"{written.bytes / 1e6:.1f} MB, snapshot {written.facts.snapshot_id}"
        Console(highlight=False).print(f"{written.path} ({size})", markup=False, soft_wrap=True)
