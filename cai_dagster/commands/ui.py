"""`cai ui`: the Dagster UI on this project's instance, and beside it the pages of reports."""

import os
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any

import typer

from cai_dagster.commands.dagster_process import prepare_instance, run_program
from cai_dagster.commands.options import Profile
from cai_dagster.errors import MendableError
from cai_dagster.home import PAGES_ADDRESS, Home

LOCALHOST = "127.0.0.1"


def ui(
    port: Annotated[int, typer.Option(min=1, max=65_534, help="Port on localhost; pages are on the next.")] = 3000,
    _profile: Profile = None,
) -> None:
    """Open the Dagster UI on this project's instance."""
    home = Home.from_environment()
    _refuse_taken(port)
    _refuse_taken(port + 1)
    prepare_instance(home)
    _serve_pages(home, port + 1)
    run_program("dagster", "dev", "-m", "cai_dagster.definitions", "--host", LOCALHOST, "--port", str(port))


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError as error:
            raise MendableError(
                f"port {port} on {LOCALHOST} cannot be used ({error.strerror}); stop what listens there, or name "
                f"another: cai ui --port {port + 2}"
            ) from None


class _Pages(SimpleHTTPRequestHandler):
    """The pages in a folder, to be read only."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is that of the library
        """Dagster's own log is enough."""


def _serve_pages(home: Home, port: int) -> None:
    """Serve the pages of reports on this machine: a browser opens no file from the UI, and Dagster serves none."""
    home.reports.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer((LOCALHOST, port), partial(_Pages, directory=str(home.reports)))
    threading.Thread(target=server.serve_forever, name="pages", daemon=True).start()
    os.environ[PAGES_ADDRESS] = f"http://{LOCALHOST}:{port}"
