"""`cai retry`: calls that ended badly, made again."""

from typing import Annotated

import typer

from cai_dagster.commands.completion import (
    complete_reason,
    complete_table,
    complete_version,
)
from cai_dagster.commands.dagster_process import materialize
from cai_dagster.commands.lake import lake_to_read
from cai_dagster.commands.options import version_named
from cai_dagster.commands.output import console
from cai_dagster.commands.plan import plan_of_profile
from cai_dagster.home import Home
from cai_dagster.profiles import active_profile
from cai_dagster.tables.registry import TABLES


def retry(
    table: Annotated[
        str,
        typer.Option(help="Table whose calls to make again, such as revision_rounds.", autocompletion=complete_table),
    ],
    reason: Annotated[
        str,
        typer.Option(help="How they ended: length, empty_completion, missing_label, …", autocompletion=complete_reason),
    ],
    version: Annotated[
        str | None,
        typer.Option(
            help="Constitution version; none for initial_responses.",
            autocompletion=complete_version,
            callback=version_named,
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer this time, in tokens.")] = None,
) -> None:
    """Make calls that ended badly again, and what follows from them."""
    from cai_dagster.calls.ledger import open_ledger
    from cai_dagster.calls.retries import RetryError, calls_to_retry

    if table in TABLES and (version is not None) != TABLES[table].versioned:
        raise typer.BadParameter(
            f"{table} belongs to a constitution version: add --version"
            if version is None
            else f"{table} is the same for all versions: leave --version out"
        )
    home = Home.existing()
    calls = calls_to_retry(lake_to_read(), table, reason, version)
    others = sum(stage.new for stage in plan_of_profile([version or "v1"], [table]).stages)
    if others:
        raise RetryError(
            f"with the settings of profile {active_profile()!r}, {table} would make {others:,} calls that it has not "
            "made yet, beside those you want again. Name the profile it was made with in CAI_PROFILE, or materialize "
            "it first."
        )
    open_ledger(home).retry(calls, reason, max_tokens)
    console().print(f"{len(calls):,} calls of {table} ended with {reason} and are made again")
    materialize(table, version)
