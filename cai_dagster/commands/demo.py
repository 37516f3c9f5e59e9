"""`cai demo`: the whole graph on the small offline model, or on a model of the user's choice."""

import os
from typing import Annotated

import typer

from cai_dagster.commands.options import Version
from cai_dagster.commands.output import console
from cai_dagster.commands.run import run
from cai_dagster.profiles import active_model


def demo(
    version: Version = "v1",
    model: Annotated[
        str | None, typer.Option(help="Another model: a Hugging Face name that is on this machine, or a folder.")
    ] = None,
) -> None:
    """Run the whole graph for one version on the small offline model."""
    os.environ.setdefault("CAI_PROFILE", "demo")
    if model:
        os.environ["CAI_MODEL"] = model
    run(version)
    if active_model() is None:
        console().print(
            "The offline model writes passably and cannot judge: its labels follow the position, not the principle."
        )
    console().print(
        "All of it on one page: [bold]make report[/bold] (or .venv/bin/cai report)\n"
        "To look at the graph, its checks and its metadata: [bold]make ui[/bold] (or .venv/bin/cai ui)"
    )
