"""`cai demo`: the whole graph on the small offline model."""

import os
import resource
import time

import typer

from cai_dagster.commands.dagster_process import materialize
from cai_dagster.commands.options import Version
from cai_dagster.commands.output import console
from cai_dagster.commands.setup import setup
from cai_dagster.commands.summary import summary
from cai_dagster.home import PROJECT, Home
from cai_dagster.tables.registry import selection_of_required_assets
from cai_dagster.text import printable


def demo(version: Version = "v1") -> None:
    """Run the whole graph for one version on the small offline model."""
    from cai_dagster.constitution.versions import constitution_versions
    from cai_dagster.settings import active_settings

    versions = constitution_versions(PROJECT / "constitutions")
    if version not in versions:
        raise typer.BadParameter(
            f"there is no constitutions/{printable(version, 80)}.yaml; there are {', '.join(versions)}"
        )
    started = time.monotonic()
    os.environ.setdefault("CAI_PROFILE", "demo")
    active_settings()  # what is wrong there is said at once, and not at the end of Dagster's log
    setup()
    paid_before = _calls_paid()
    materialize(selection_of_required_assets(), version)
    summary(version)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    console().print(
        f"This run paid for {_calls_paid() - paid_before:,} model calls and took {time.monotonic() - started:.0f} s in "
        f"all; peak memory {peak:.1f} GiB.\n"
        "The offline model writes passably and cannot judge: its labels follow the position, not the principle.\n"
        "All of it on one page: [bold]make report[/bold] (or .venv/bin/cai report)\n"
        "To look at the graph, its checks and its metadata: [bold]make ui[/bold] (or .venv/bin/cai ui)"
    )


def _calls_paid() -> int:
    from cai_dagster.calls.ledger import open_ledger

    return sum(open_ledger(Home.from_environment()).totals().values())
