"""`cai init`: a project folder of one's own."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from cai_dagster.commands.output import console
from cai_dagster.errors import MendableError
from cai_dagster.project import PROJECT_FILES


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make; it has to be empty, or not there yet.")],
) -> None:
    """Make a project folder: constitutions, prompts, settings.

    What you write stays apart from the program: start `cai`, `dagster dev` and `dg dev` in it or below it, or name it
    in CAI_PROJECT.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MendableError(f"{folder} is there already; `cai init` writes into an empty folder or makes one")
    shutil.copytree(PROJECT_FILES / "new", folder, dirs_exist_ok=True)
    console().print(
        f"{folder}\nNext: `cd {folder}`, then `cai demo` (a small model, nothing to download), or name your models in "
        "settings.toml and your prompts in prompts/, and `cai run`.",
        markup=False,
        soft_wrap=True,
    )
