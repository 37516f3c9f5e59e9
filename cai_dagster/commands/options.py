"""Options that several commands share."""

import os
from typing import Annotated, TypeVar

import typer

from cai_dagster.commands.completion import complete_version
from cai_dagster.constitution.versions import constitution_versions, refuse_other_names
from cai_dagster.profiles import values_of
from cai_dagster.project import CONSTITUTIONS, SETTINGS_FILE

Named = TypeVar("Named", str | None, list[str] | None)


def version_named(given: Named) -> Named:
    """The version of an option, or its versions. Raises ConstitutionError for what is no name of one."""
    there = ", ".join(constitution_versions(CONSTITUTIONS))
    for version in [given] if isinstance(given, str) else given or []:
        refuse_other_names(version, there)
    return given


Version = Annotated[
    str,
    typer.Option(
        help="Constitution version: the stem of a file in constitutions/.",
        autocompletion=complete_version,
        callback=version_named,
    ),
]


def use_profile(given: str | None) -> str | None:
    """Use a profile in this process and those that it starts. Raises SettingsError where there is no such profile."""
    if given:
        values_of(SETTINGS_FILE, given)
        os.environ["CAI_PROFILE"] = given
    return given


Profile = Annotated[
    str | None,
    typer.Option("--profile", help="Profile of the settings, where not that of the home.", callback=use_profile),
]
