"""`cai ui`: the Dagster UI on this project's instance."""

import socket
from typing import Annotated

import typer

from cai_dagster.commands.dagster_process import prepare_instance, run_program
from cai_dagster.commands.options import Profile
from cai_dagster.errors import MendableError
from cai_dagster.home import Home

LOCALHOST = "127.0.0.1"


def ui(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port on localhost.")] = 3000,
    _profile: Profile = None,
) -> None:
    """Open the Dagster UI on this project's instance."""
    home = Home.from_environment()
    _refuse_taken(port)
    prepare_instance(home)
    run_program("dagster", "dev", "-m", "cai_dagster.definitions", "--host", LOCALHOST, "--port", str(port))


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError as error:
            raise MendableError(
                f"port {port} on {LOCALHOST} cannot be used ({error.strerror}); stop what listens there, or name "
                f"another: cai ui --port {port + 1}"
            ) from None
