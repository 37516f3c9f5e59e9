"""`cai run` and `cai backfill`: versions materialized from the command line, with the progress of the UI's log."""

import resource
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from cai_dagster.commands.completion import complete_table, complete_version
from cai_dagster.commands.dagster_process import INTERRUPTED, materialize, prepare_instance
from cai_dagster.commands.options import Profile, Version, version_named
from cai_dagster.commands.output import console
from cai_dagster.commands.preflight import refuse_what_cannot_finish
from cai_dagster.commands.setup import setup
from cai_dagster.commands.status import status
from cai_dagster.commands.summary import summary
from cai_dagster.constitution.versions import file_of_version
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.profiles import active_profile, remember_profile, remembered_profile
from cai_dagster.project import CONSTITUTIONS
from cai_dagster.tables.registry import assets_of_the_graph, selection_of_required_assets, shared_tables
from cai_dagster.text import did_you_mean

SkipPreflight = Annotated[
    bool, typer.Option("--skip-preflight", help="Start although `cai doctor --version` finds a problem.")
]


def run(
    version: Version = "v1",
    to: Annotated[
        str | None,
        typer.Option("--to", help="Materialize this asset and all that it is made of.", autocompletion=complete_table),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="Materialize this asset and none that it is made of; once for each.",
            autocompletion=complete_table,
        ),
    ] = None,
    _profile: Profile = None,
    skip_preflight: SkipPreflight = False,
) -> None:
    """Materialize a version: everything, or up to an asset.

    What is in the ledger already is not paid for again. Without --to and --only it first looks whether the run can
    finish, as `cai doctor --version` does.
    """
    file_of_version(CONSTITUTIONS, version)
    selection = _selection(to, only or ())
    _prepare()
    if not (to or only or skip_preflight):
        refuse_what_cannot_finish([version])
    named = [to] if to else only or ()
    of_no_version = bool(named) and set(named) <= set(shared_tables())
    _run(None if of_no_version else version, selection, with_summary=not (only or of_no_version))


def backfill(
    versions: Annotated[
        list[str],
        typer.Argument(
            help="Constitution versions, in this order.", autocompletion=complete_version, callback=version_named
        ),
    ],
    _profile: Profile = None,
    skip_preflight: SkipPreflight = False,
) -> None:
    """Materialize several versions, each compared with its base.

    What the versions share is materialized once. A version that fails does not stop the next.
    """
    for version in versions:
        file_of_version(CONSTITUTIONS, version)
    _prepare()
    if not skip_preflight:
        refuse_what_cannot_finish(versions)
    made: list[str] = []
    failed: list[str] = []
    for version in dict.fromkeys(versions):
        console().print(f"version {version}", style="bold", markup=False)
        try:
            materialize(selection_of_required_assets(with_shared=not made), version)
        except typer.Exit as end:
            if end.exit_code == INTERRUPTED:
                raise
            failed.append(version)
        else:
            made.append(version)
    if failed:
        raise MendableError(f"failed: {', '.join(failed)}; `cai status --version {failed[0]}` says why")
    status(version=versions)


def _run(version: str | None, selection: str, with_summary: bool) -> None:
    """Materialize, print the summary, and say what this run cost."""
    started, paid_before = time.monotonic(), _calls_paid()
    materialize(selection, version)
    if version is not None and with_summary:
        summary(version)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    console().print(
        f"This run paid for {_calls_paid() - paid_before:,} model calls and took {time.monotonic() - started:.0f} s in "
        f"all; peak memory {peak:.1f} GiB.",
        markup=False,
    )


def refuse_unknown_assets(names: Sequence[str]) -> None:
    """Raise MendableError for what is no asset, with those that have such a name."""
    assets = assets_of_the_graph()
    for name in names:
        if name not in assets:
            raise MendableError(
                f"there is no asset {name!r}{did_you_mean(name, assets)}; there are {', '.join(assets)}"
            )


def _selection(to: str | None, only: Sequence[str]) -> str:
    """In Dagster's selection syntax."""
    if to and only:
        raise typer.BadParameter("--to names the last asset, --only every one; give one of the two")
    refuse_unknown_assets([*only, *([to] if to else [])])
    if to:
        return f'+key:"{to}"'
    return " or ".join(f'key:"{name}"' for name in only) or selection_of_required_assets()


def _prepare() -> None:
    """The home as it has to be before a run; its profile is remembered."""
    from cai_dagster.models.weights import OFFLINE
    from cai_dagster.settings import active_settings

    settings = active_settings()  # what is wrong there is said at once, and not at the end of Dagster's log
    home = Home.from_environment()
    prepare_instance(home)
    if remembered_profile(home) is None:
        remember_profile(home, active_profile())
    if OFFLINE in (settings.policy.model, settings.feedback_model.model):
        setup()


def _calls_paid() -> int:
    from cai_dagster.calls.ledger import open_ledger

    return sum(open_ledger(Home.from_environment()).totals().values())
