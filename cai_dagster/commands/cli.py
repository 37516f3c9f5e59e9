"""The command line, `cai --help`. It starts Dagster, and knows none of its code."""

import gc
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from cai_dagster.commands.checks import checks
from cai_dagster.commands.demo import demo
from cai_dagster.commands.diff import diff
from cai_dagster.commands.doctor import doctor
from cai_dagster.commands.export import export
from cai_dagster.commands.forget import forget
from cai_dagster.commands.imports import imports
from cai_dagster.commands.init import init
from cai_dagster.commands.plan import plan
from cai_dagster.commands.principle import principle
from cai_dagster.commands.report import report
from cai_dagster.commands.retry import retry
from cai_dagster.commands.run import backfill, run
from cai_dagster.commands.score import score
from cai_dagster.commands.setup import setup
from cai_dagster.commands.status import status
from cai_dagster.commands.summary import summary
from cai_dagster.commands.trace import trace
from cai_dagster.commands.ui import ui
from cai_dagster.errors import MendableError
from cai_dagster.profiles import values_of
from cai_dagster.project import SETTINGS_FILE
from cai_dagster.text import printable

LONGEST_ERROR = 10_000  # characters
OBJECTS_A_COLLECTION = 1_000_000


class _App(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Libraries are many objects and no garbage: looking for some while they load is a quarter of a command's time.
        gc.set_threshold(OBJECTS_A_COLLECTION)
        try:
            return super().__call__(*args, **kwargs)
        except MendableError as error:
            _say(str(error))
            sys.exit(1)
        except Exception as error:
            if not _is_of_files(error):
                raise
            _say(f"{error}\nA file could not be read or written: `cai doctor` says what is wrong and what mends it.")
            sys.exit(1)


def _say(problem: str) -> None:
    Console(stderr=True).print(printable(problem, LONGEST_ERROR), markup=False, highlight=False, soft_wrap=True)


def _is_of_files(error: Exception) -> bool:
    """Whether the system, DuckDB or a database says so: damaged, read-only, full. Nothing is imported to find out."""
    libraries = {type(error).__module__.split(".")[0], *(one.__module__.split(".")[0] for one in type(error).__mro__)}
    return isinstance(error, OSError) or bool(libraries & {"duckdb", "_duckdb", "sqlite3", "sqlalchemy"})


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        sys.stdout.write(f"cai_dagster {version('cai_dagster')}\n")
        raise typer.Exit


# What a command is called elsewhere, or by what one wants of it.
_MEANT = {
    "init": ("create", "new", "scaffold"),
    "run": ("build", "execute", "launch", "make", "materialize", "start", "train"),
    "backfill": ("rerun", "versions"),
    "ui": ("dashboard", "dev", "open", "serve", "web", "webserver"),
    "plan": ("cost", "dry-run", "estimate", "price"),
    "status": ("list", "ls", "overview", "state"),
    "checks": ("check", "quality", "test", "validate"),
    "summary": ("example", "show"),
    "diff": ("compare", "delta", "versus", "vs"),
    "trace": ("explain", "lineage", "provenance", "why"),
    "principle": ("rule",),
    "export": ("dataset", "dump", "push"),
    "import": ("add", "ingest", "load"),
    "score": ("evaluate", "predict", "rate", "reward"),
    "doctor": ("diagnose", "fix", "health", "preflight", "repair"),
    "forget": ("delete", "purge", "remove", "rm"),
    "setup": ("configure", "install", "prepare"),
}


class _Commands(TyperGroup):
    """Names the command that is meant, where somebody says it otherwise."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            meant = next((name for name, words in _MEANT.items() if args and args[0].lower() in words), None)
            if meant is not None and hasattr(error, "message"):
                error.message = f"No such command '{args[0]}'. Did you mean '{meant}'?"  # pyright: ignore[reportAttributeAccessIssue]
            raise


app = _App(
    cls=_Commands,
    help="Constitutional AI as a Dagster graph: from a written constitution to preference data and a reward model.",
    epilog="Everything lies in CAI_HOME (default .cai); CAI_PROFILE chooses the settings. Exit status: 0 good, 1 an "
    "error that the message explains, 2 a wrong option, 130 interrupted. Each command with an example: docs/cli.md",
    no_args_is_help=True,
)
# `cai --help` shows the commands in these groups and in this order.
PANELS = {
    "Run": (init, setup, demo, run, backfill, ui, plan, retry),
    "Look": (status, checks, summary, diff, trace, principle, report),
    "Data and models": (export, score),
    "Upkeep": (doctor, forget),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(command.__name__, rich_help_panel=panel)(command)
app.add_typer(imports, name="import", rich_help_panel="Data and models")


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end.")
    ] = False,
) -> None:
    """The options of `cai` itself; a profile that the environment names, and that there is not, is said at once."""
    if named := os.environ.get("CAI_PROFILE"):
        values_of(SETTINGS_FILE, named)
