"""The project folder: the files that users write (constitutions/, prompts/, settings.toml), wherever this package is.

It is the folder that `CAI_PROJECT` names; without it the nearest one from the working directory upwards that has
settings.toml and constitutions/; without that the checkout in which this package lies. `cai init` makes one.
"""

import os
from pathlib import Path

from cai_dagster.errors import MendableError

PACKAGE = Path(__file__).resolve().parent
PROJECT_FILES = PACKAGE / "project_files"
"""What ships with the package: the default settings, the example instance, and what a new project consists of."""
DEFAULTS_FILE = PROJECT_FILES / "defaults.toml"
EXAMPLE_INSTANCE = PROJECT_FILES / "dagster.yaml"
CHECKOUT = PACKAGE.parent
"""The folder above the package: the checkout, where the package is not installed by itself."""


class ProjectError(MendableError):
    """There is no project where one is needed; the message says how to make or name one."""


def is_project(folder: Path) -> bool:
    """Whether a folder is that of a project."""
    return (folder / "settings.toml").is_file() and (folder / "constitutions").is_dir()


def _find() -> Path:
    if named := os.environ.get("CAI_PROJECT"):
        return Path(named).expanduser().resolve()
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working directory was removed
        return CHECKOUT
    above = (folder for folder in (here, *here.parents) if is_project(folder))
    return next(above, CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else here)


PROJECT = _find()
CONSTITUTIONS = PROJECT / "constitutions"
SETTINGS_FILE = PROJECT / "settings.toml"


def refuse_outside_a_project() -> None:
    """Raise ProjectError where PROJECT is the folder of no project."""
    if is_project(PROJECT) or PROJECT == CHECKOUT:
        return
    if "CAI_PROJECT" in os.environ:
        raise ProjectError(
            f"CAI_PROJECT names {PROJECT}, which is no project: it has no settings.toml and constitutions/. "
            "`cai init FOLDER` makes one"
        )
    raise ProjectError(
        f"no project in {PROJECT} or above it: a project has settings.toml and constitutions/. `cai init FOLDER` makes "
        "one; start from it, or name it in CAI_PROJECT"
    )
