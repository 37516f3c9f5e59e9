"""The command line, `cai --help`. It starts Dagster, and knows none of its code."""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cai_dagster.commands.completion import (
    complete_exported,
    complete_reason,
    complete_reward_model,
    complete_table,
    complete_version,
)
from cai_dagster.commands.dagster_process import QUIET, materialize, prepare_instance, run_program
from cai_dagster.commands.diff import diff
from cai_dagster.commands.doctor import doctor
from cai_dagster.commands.forget import forget
from cai_dagster.commands.principle import principle
from cai_dagster.commands.report import report
from cai_dagster.commands.status import status
from cai_dagster.commands.trace import trace
from cai_dagster.errors import MendableError
from cai_dagster.exports.formats import ExportFormat, FileFormat
from cai_dagster.home import PROJECT, Home
from cai_dagster.inputs.preference_formats import PreferenceFormat
from cai_dagster.tables.registry import TABLES, selection_of_required_assets
from cai_dagster.text import printable

if TYPE_CHECKING:
    from cai_dagster.plan.cost import CostPlan


class _App(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
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


app = _App(
    help="Constitutional AI as a Dagster graph: from a written constitution to preference data and a reward model.",
    epilog="Everything lies in CAI_HOME (default .cai); CAI_PROFILE chooses the settings. Exit status: 0 good, 1 an "
    "error that the message explains, 2 a wrong option, 130 interrupted. Each command with an example: docs/cli.md",
    no_args_is_help=True,
)
imports = typer.Typer(help="Bring in what others have written.", no_args_is_help=True)
app.add_typer(imports, name="import")
app.command("report")(report)
app.command("doctor")(doctor)
app.command("trace")(trace)
app.command("principle")(principle)
app.command("forget")(forget)
app.command("status")(status)
app.command("diff")(diff)
Version = Annotated[
    str,
    typer.Option(help="Constitution version: the stem of a file in constitutions/.", autocompletion=complete_version),
]

LINES_A_REPORT = 100
LONGEST_ERROR = 10_000  # characters
# `cai --help` shows the commands in these groups and in this order.
HELP_PANELS = {
    "Run": ("setup", "demo", "ui", "plan", "retry"),
    "Look": ("status", "summary", "diff", "trace", "principle", "report"),
    "Data and models": ("import", "export", "score"),
    "Upkeep": ("doctor", "forget"),
}


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end.")
    ] = False,
) -> None:
    """Nothing but the options of `cai` itself."""


@app.command()
def setup() -> None:
    """Prepare CAI_HOME: the Dagster instance and the offline model."""
    from cai_dagster.models.offline import prepare_offline_model

    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    home = Home.from_environment()
    prepare_instance(home)
    started = time.monotonic()
    folder = prepare_offline_model(home)
    _console().print(f"offline model: {folder} ({time.monotonic() - started:.0f} s)")


@app.command()
def demo(version: Version = "v1") -> None:
    """Run the whole graph for one version on the small offline model."""
    from cai_dagster.constitution.constitution import constitution_versions
    from cai_dagster.settings import active_settings

    versions = constitution_versions(PROJECT / "constitutions")
    if version not in versions:
        raise typer.BadParameter(
            f"there is no constitutions/{printable(version, 80)}.yaml; there are {', '.join(versions)}"
        )
    started = time.monotonic()
    os.environ.setdefault("CAI_PROFILE", "demo")
    active_settings()  # what is wrong there is said at once, and not at the end of Dagster's log
    setup()
    paid_before = _calls_paid()
    materialize(selection_of_required_assets(), version)
    summary(version)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    console = _console()
    console.print(
        f"This run paid for {_calls_paid() - paid_before:,} model calls and took {time.monotonic() - started:.0f} s in "
        f"all; peak memory {peak:.1f} GiB.\n"
        "The offline model writes passably and cannot judge: its labels follow the position, not the principle.\n"
        "All of it on one page: [bold]make report[/bold] (or .venv/bin/cai report)\n"
        "To look at the graph, its checks and its metadata: [bold]make ui[/bold] (or .venv/bin/cai ui)"
    )


@app.command()
def plan(
    version: Annotated[
        list[str] | None,
        typer.Option(help="Constitution version; once for each. All, without it.", autocompletion=complete_version),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Asset to plan; once for each. All, without it.", autocompletion=complete_table),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what a run would pay for: calls, tokens, time.

    Loads no model and calls none.
    """
    from cai_dagster.constitution.constitution import constitution_versions
    from cai_dagster.report.summary import print_plan

    made = _plan(version or constitution_versions(PROJECT / "constitutions"), select or [])
    if as_json:
        _print_json(made.to_json())
    else:
        print_plan(made, _console())


@app.command()
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
        typer.Option(help="Constitution version; none for initial_responses.", autocompletion=complete_version),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer this time, in tokens.")] = None,
) -> None:
    """Make calls that ended badly again, and what follows from them."""
    from cai_dagster.calls.ledger import Ledger
    from cai_dagster.calls.retries import RetryError, calls_to_retry
    from cai_dagster.lake.lake import Lake
    from cai_dagster.settings import DEFAULT_PROFILE

    if table in TABLES and (version is not None) != TABLES[table].versioned:
        raise typer.BadParameter(
            f"{table} belongs to a constitution version: add --version"
            if version is None
            else f"{table} is the same for all versions: leave --version out"
        )
    home = Home.from_environment()
    calls = calls_to_retry(Lake(home), table, reason, version)
    others = sum(stage.new for stage in _plan([version or "v1"], [table]).stages)
    if others:
        profile = os.environ.get("CAI_PROFILE", DEFAULT_PROFILE)
        raise RetryError(
            f"with the settings of profile {profile!r}, {table} would make {others:,} calls that it has not made yet, "
            "beside those you want again. Set CAI_PROFILE to the profile it was made with, or materialize it first."
        )
    Ledger(home.ledger).retry(calls, reason, max_tokens)
    _console().print(f"{len(calls):,} calls of {table} ended with {reason} and are made again")
    materialize(table, version)


@imports.command("preferences")
def import_preferences(
    files: Annotated[list[Path], typer.Argument(help="Files or folders with human-labelled pairs.", exists=True)],
    layout: Annotated[
        PreferenceFormat, typer.Option("--format", help="How a pair is written; auto: by its content.")
    ] = PreferenceFormat.auto,
    prompt: Annotated[str | None, typer.Option(help="Column with the prompt.")] = None,
    chosen: Annotated[str | None, typer.Option(help="Column with the preferred completion or transcript.")] = None,
    rejected: Annotated[str | None, typer.Option(help="Column with the other one.")] = None,
    category: Annotated[str | None, typer.Option(help="Column with a category.")] = None,
    votes_chosen: Annotated[str | None, typer.Option(help="Column with how many people chose it.")] = None,
    votes_rejected: Annotated[str | None, typer.Option(help="Column with how many chose the other.")] = None,
    max_rejected_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="More rejected rows than this fail the import.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fill human_preferences from data sets that people labelled.

    Says what was set aside and why.
    """
    from cai_dagster.lake.lake import Lake
    from cai_dagster.report.summary import import_json, print_import
    from cai_dagster.settings import active_settings

    active_settings()
    given = {
        "prompt_column": prompt,
        "chosen_column": chosen,
        "rejected_column": rejected,
        "category_column": category,
        "votes_chosen_column": votes_chosen,
        "votes_rejected_column": votes_rejected,
        "max_rejected_share": max_rejected_share,
    }
    config: dict[str, Any] = {"sources": [str(file.absolute()) for file in files], "format": layout.value}
    config |= {name: value for name, value in given.items() if value is not None}
    materialize("human_preferences", None, {"human_preferences": config})
    imported = import_json(Lake(Home.from_environment()), "human_preferences", config)
    if as_json:
        _print_json(imported)
    else:
        print_import(imported, _console())


@app.command()
def summary(
    version: Version = "v1",
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, without examples.")] = False,
) -> None:
    """Show an example, its labels, evaluation and cost of a version."""
    from cai_dagster.lake.lake import Lake
    from cai_dagster.report.summary import print_summary, summary_json

    lake = Lake(Home.from_environment())
    if as_json:
        _print_json(summary_json(lake, version))
    else:
        print_summary(lake, version, _console())


@app.command()
def score(
    model: Annotated[
        str,
        typer.Option(
            help="A reward model: its key, the first digits of it, or a folder.", autocompletion=complete_reward_model
        ),
    ],
) -> None:
    """Score texts with a reward model, JSON lines in and out.

    A JSON line on standard input gets a JSON line with its reward on standard output.

    {"prompt", "completion"} gets a reward; {"prompt", "chosen", "rejected"} both rewards, their margin and P(chosen).
    `messages` may stand in place of `prompt`; `principle` belongs to a principle-conditioned model. A bad line is named
    on standard error, the others are scored, and the exit status is then 1.
    """
    from cai_dagster.training.checkpoints import find_checkpoint
    from cai_dagster.training.scored_texts import reading_of, score_lines

    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    folder = find_checkpoint(Home.from_environment(), "reward_model", model)
    messages = Console(stderr=True, highlight=False)
    reading = reading_of(folder)
    from cai_dagster.training.scoring import SCORE_BATCH, Scorer

    scorer = Scorer(folder)
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # pyright: ignore
    scored = bad = 0
    for line in score_lines(sys.stdin, reading, scorer.rewards, SCORE_BATCH):
        if line.error is None:
            scored += 1
            sys.stdout.write(json.dumps(line.result) + "\n")
            sys.stdout.flush()
        else:
            bad += 1
            messages.print(printable(f"line {line.line}: {line.error}"), markup=False, soft_wrap=True)
        if (scored + bad) % LINES_A_REPORT == 0:
            messages.print(f"{scored:,} lines scored, {bad:,} refused")
    messages.print(f"{scored:,} lines scored, {bad:,} refused, with {folder}", soft_wrap=True)
    if bad:
        raise typer.Exit(1)


@app.command()
def export(
    table: Annotated[str, typer.Option(help="sft_dataset or preference_pairs.", autocompletion=complete_exported)],
    output: Annotated[Path, typer.Option(help="Folder to make: a data set that `datasets.load_dataset` reads.")],
    export_format: Annotated[
        ExportFormat, typer.Option("--format", help="Whose format; docs/exports.md describes each.")
    ] = ExportFormat.trl,
    version: Version = "v1",
    file_format: Annotated[FileFormat, typer.Option(help="Parquet or JSON lines.")] = FileFormat.parquet,
    snapshot: Annotated[
        int | None, typer.Option(min=1, help="Snapshot of the lake to export; the current one without it.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence for the card, such as cc-by-4.0.")] = "unknown",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write SFT or preference data for other tools, with its card."""
    from cai_dagster.exports.datasets import export_table
    from cai_dagster.lake.lake import Lake

    lake = Lake(Home.from_environment())
    made = export_table(
        lake, table, export_format, version, output.absolute(), file_format, snapshot, licence, overwrite
    )
    if as_json:
        counts = {"records": dict(made.records), "rejected": dict(made.rejected)}
        _print_json({"folder": str(made.folder), "snapshot_id": made.snapshot_id, **counts})
        return
    splits = ", ".join(f"{count:,} {split}" for split, count in made.records.items())
    _console().print(f"{made.folder}: {splits}; snapshot {made.snapshot_id}", markup=False, soft_wrap=True)
    for code, count in made.rejected.items():
        _console().print(f"{count:,} rows are in rejected.jsonl: {code}", markup=False)


@imports.command("constitution")
def import_constitution(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="JSON of llm-swarm or of Anthropic's prompts, Markdown, or text with a principle a line.", exists=True
        ),
    ],
    output: Annotated[Path, typer.Option(help="The file to write, such as constitutions/NAME.yaml.")],
    title: Annotated[str | None, typer.Option(help="Title; the first file's own, or its name, without it.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the texts, such as CC0-1.0.")] = "unknown",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a constitution of principles that others have written."""
    from cai_dagster.constitution.imports import read_constitution, write_constitution

    found = read_constitution(files)
    constitution = write_constitution(found, output, title, licence, overwrite)
    if as_json:
        document = {"file": str(output.absolute()), "principles": [one.slug for one in constitution.principles]}
        _print_json({**document, "left_out": list(found.left_out)})
        return
    _console().print(f"{output}: {len(constitution.principles):,} principles", markup=False, soft_wrap=True)
    for note in found.left_out:
        _console().print(printable(f"left out: {note}"), markup=False, soft_wrap=True)


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65_535, help="Port on localhost.")] = 3000) -> None:
    """Open the Dagster UI on this project's instance.

    With the settings of the profile `demo`, unless CAI_PROFILE says otherwise.
    """
    os.environ.setdefault("CAI_PROFILE", "demo")
    if not (Home.from_environment().dagster / "dagster.yaml").exists():
        setup()
    run_program("dagster", "dev", "-w", "workspace.yaml", "--host", "127.0.0.1", "--port", str(port))


def _plan(versions: list[str], selection: list[str]) -> "CostPlan":
    from cai_dagster.models.configured import ConfiguredModel
    from cai_dagster.plan.cost import plan as make_plan
    from cai_dagster.settings import active_settings

    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    settings = active_settings()
    policy, feedback_model = (
        ConfiguredModel(**model.model_dump()) for model in (settings.policy, settings.feedback_model)
    )
    progress = Console(stderr=True)
    return make_plan(Home.from_environment(), settings, policy, feedback_model, versions, selection, progress.print)


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def _calls_paid() -> int:
    from cai_dagster.calls.ledger import Ledger

    return sum(Ledger(Home.from_environment().ledger).totals().values())


def _arrange_help() -> None:
    panels = {command: panel for panel, commands in HELP_PANELS.items() for command in commands}
    order = list(panels)
    for one in (*app.registered_commands, *app.registered_groups):
        one.name = one.name or getattr(one.callback, "__name__", "")
        one.rich_help_panel = panels.get(one.name)
    app.registered_commands.sort(key=lambda one: order.index(one.name or "") if one.name in panels else len(order))


_arrange_help()
