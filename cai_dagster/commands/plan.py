"""`cai plan`: what a run would pay for."""

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cai_dagster.commands.completion import complete_table
from cai_dagster.commands.dagster_process import QUIET
from cai_dagster.commands.options import Versions
from cai_dagster.commands.output import console, print_json
from cai_dagster.home import Home
from cai_dagster.project import CONSTITUTIONS

if TYPE_CHECKING:
    from cai_dagster.plan.cost import CostPlan


def plan(
    version: Versions = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Asset to plan; once for each. All, without it.", autocompletion=complete_table),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what a run would pay for: calls, tokens, time.

    Loads no model and calls none.
    """
    from cai_dagster.constitution.constitution import load_constitution
    from cai_dagster.constitution.versions import constitution_versions, file_of_version
    from cai_dagster.report.summary import print_plan

    versions = version or constitution_versions(CONSTITUTIONS)
    for one in version or ():
        load_constitution(file_of_version(CONSTITUTIONS, one))
    made = plan_of_profile(versions, select or [])
    if as_json:
        print_json(made.to_json())
    else:
        print_plan(made, console())


def plan_of_profile(versions: list[str], selection: list[str]) -> "CostPlan":
    """The plan with the settings and models of the profile in use."""
    from cai_dagster.models.configured import ConfiguredModel
    from cai_dagster.plan.cost import plan as make_plan
    from cai_dagster.settings import active_settings

    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    settings = active_settings()
    policy, feedback_model = (
        ConfiguredModel(**model.model_dump()) for model in (settings.policy, settings.feedback_model)
    )
    progress = Console(stderr=True)
    return make_plan(Home.existing(), settings, policy, feedback_model, versions, selection, progress.print)
