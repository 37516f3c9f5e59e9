"""`cai demo`: the whole graph on the small offline model."""

import os

from cai_dagster.commands.options import Version
from cai_dagster.commands.output import console
from cai_dagster.commands.run import run


def demo(version: Version = "v1") -> None:
    """Run the whole graph for one version on the small offline model."""
    os.environ.setdefault("CAI_PROFILE", "demo")
    run(version)
    console().print(
        "The offline model writes passably and cannot judge: its labels follow the position, not the principle.\n"
        "All of it on one page: [bold]make report[/bold] (or .venv/bin/cai report)\n"
        "To look at the graph, its checks and its metadata: [bold]make ui[/bold] (or .venv/bin/cai ui)"
    )
