"""Options that several commands share."""

import os
from typing import Annotated, Any, TypeVar

import typer

from cai_dagster.commands.completion import complete_version
from cai_dagster.constitution.versions import ConstitutionError, constitution_versions, refuse_other_names
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.profiles import values_of
from cai_dagster.project import CONSTITUTIONS, SETTINGS_FILE
from cai_dagster.text import did_you_mean

Named = TypeVar("Named", str | None, list[str] | None)


def version_named(given: Named) -> Named:
    """The version of an option, or its versions.

    Raises ConstitutionError for what is no name of one, and for one that has neither a file nor a table.
    """
    files = constitution_versions(CONSTITUTIONS)
    for version in [given] if isinstance(given, str) else given or []:
        refuse_other_names(version, ", ".join(files))
        if version not in files and not _was_made(version):
            there = ", ".join(files) or "none"
            raise ConstitutionError(
                f"there is no constitution version {version!r}: {CONSTITUTIONS} has no such file, and nothing was made "
                f"of it. There are {there}{did_you_mean(version, files)}"
            )
    return given


def _was_made(version: str) -> bool:
    """Whether a version whose file is gone has tables. Where they cannot be read, the command itself says why."""
    from cai_dagster.lake.catalog_database import is_begun

    home = Home.existing()
    if not is_begun(home):
        return False
    from cai_dagster.lake.reader import LakeReader

    query = "SELECT 1 FROM lake.materializations WHERE constitution_version = $version LIMIT 1"
    try:
        return bool(LakeReader(home).rows(query, version=version))
    except MendableError:
        return True


def version_option(meaning: str) -> Any:
    """The option --version of a command, with what it means there."""
    return typer.Option(help=meaning, autocompletion=complete_version, callback=version_named)


Version = Annotated[str, version_option("Constitution version: the stem of a file in constitutions/.")]
Versions = Annotated[list[str] | None, version_option("Constitution version; once for each. All, without it.")]


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
