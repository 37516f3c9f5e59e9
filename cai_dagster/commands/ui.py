"""`cai ui`: the Dagster UI on this project's instance."""

import os
from typing import Annotated

import typer

from cai_dagster.commands.dagster_process import run_program
from cai_dagster.commands.setup import setup
from cai_dagster.home import Home


def ui(port: Annotated[int, typer.Option(min=1, max=65_535, help="Port on localhost.")] = 3000) -> None:
    """Open the Dagster UI on this project's instance.

    With the settings of the profile `demo`, unless CAI_PROFILE says otherwise.
    """
    os.environ.setdefault("CAI_PROFILE", "demo")
    if not (Home.from_environment().dagster / "dagster.yaml").exists():
        setup()
    run_program("dagster", "dev", "-w", "workspace.yaml", "--host", "127.0.0.1", "--port", str(port))
