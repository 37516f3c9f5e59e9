"""The command line, `cai --help`. It starts Dagster, and knows none of its code."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cai_dagster.commands.forget import forget
from cai_dagster.commands.principle import principle
from cai_dagster.commands.trace import trace
from cai_dagster.constitution import constitution_versions
from cai_dagster.errors import HOW_TO_GO_ON, MendableError
from cai_dagster.export_formats import ExportFormat, FileFormat
from cai_dagster.home import PROJECT, Home
from cai_dagster.settings import DEFAULT_PROFILE, PreferenceFormat, active_settings
from cai_dagster.text import printable

if TYPE_CHECKING:
    from cai_dagster.cost_plan import CostPlan


class _App(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except MendableError as error:
            Console(stderr=True).print(printable(str(error)), markup=False, highlight=False)
            sys.exit(1)


app = _App(help="Constitutional AI as a Dagster graph.", no_args_is_help=True)
imports = typer.Typer(help="Bring in what others have written.", no_args_is_help=True)
app.add_typer(imports, name="import")
app.command("trace")(trace)
app.command("principle")(principle)
app.command("forget")(forget)
Version = Annotated[str, typer.Option(help="Constitution version: the stem of a file in constitutions/.")]

# Progress bars and load reports of the libraries would bury the run's own log.
_QUIET = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
GRAPH = "cai_dagster.definitions"
LINES_A_REPORT = 100
DEMO_SELECTION = "* and not key:cost_plan and not group:policy_optimization"
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
GRACE_SECONDS = 20.0
_LOG_CONFIG = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}


@app.command()
def setup() -> None:
    """Prepare CAI_HOME: the Dagster instance, its pool for the accelerator, and the offline model."""
    from cai_dagster.offline_model import prepare_offline_model

    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    home = Home.from_environment()
    _prepare_instance(home)
    started = time.monotonic()
    folder = prepare_offline_model(home)
    _console().print(f"offline model: {folder} ({time.monotonic() - started:.0f} s)")


@app.command()
def demo(version: Version = "v1") -> None:
    """Materialize the whole graph for one constitution version on the offline model, and say what came out."""
    versions = constitution_versions(PROJECT / "constitutions")
    if version not in versions:
        raise typer.BadParameter(f"there is no constitutions/{version}.yaml; there are {', '.join(versions)}")
    started = time.monotonic()
    os.environ.setdefault("CAI_PROFILE", "demo")
    setup()
    paid_before = _calls_paid()
    _materialize(DEMO_SELECTION, version)
    summary(version)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    console = _console()
    console.print(
        f"This run paid for {_calls_paid() - paid_before:,} model calls and took {time.monotonic() - started:.0f} s in "
        f"all; peak memory {peak:.1f} GiB.\n"
        "The offline model writes passably and cannot judge: its labels follow the position, not the principle.\n"
        "To look at the graph, its checks and its metadata: [bold]make ui[/bold] (or .venv/bin/cai ui)"
    )


@app.command()
def plan(
    version: Annotated[
        list[str] | None, typer.Option(help="Constitution version; once for each. All, without it.")
    ] = None,
    select: Annotated[list[str] | None, typer.Option(help="Asset to plan; once for each. All, without it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what a materialization would pay for: calls, tokens, time. Loads no model and calls none."""
    from cai_dagster.summary import print_plan

    made = _plan(version or constitution_versions(PROJECT / "constitutions"), select or [])
    if as_json:
        sys.stdout.write(json.dumps(made.to_json(), indent=2) + "\n")
    else:
        print_plan(made, _console())


@app.command()
def retry(
    table: Annotated[str, typer.Option(help="Table whose calls to make again, such as revision_rounds.")],
    reason: Annotated[str, typer.Option(help="How they ended: length, empty_completion, missing_label, …")],
    version: Annotated[str | None, typer.Option(help="Constitution version; none for initial_responses.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer this time, in tokens.")] = None,
) -> None:
    """Make the calls of a table that ended badly again, and only those and what follows from them."""
    from cai_dagster.lake import Lake
    from cai_dagster.ledger import Ledger
    from cai_dagster.retries import RetryError, calls_to_retry

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
    _materialize(table, version)


@imports.command("preferences")
def import_preferences(
    files: Annotated[list[Path], typer.Argument(help="Files or folders with human-labelled pairs.")],
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
) -> None:
    """Fill the table human_preferences from preference data sets, and say what was set aside and why."""
    from cai_dagster.lake import Lake
    from cai_dagster.summary import print_import

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
    _materialize("human_preferences", None, {"human_preferences": config})
    print_import(Lake(Home.from_environment()), "human_preferences", config, _console())


@app.command()
def summary(version: Version = "v1") -> None:
    """Print an example, its labels, the reward model's evaluation, rows and cost of one constitution version."""
    from cai_dagster.lake import Lake
    from cai_dagster.summary import print_summary

    print_summary(Lake(Home.from_environment()), version, _console())


@app.command()
def score(
    model: Annotated[str, typer.Option(help="A reward model: its key, the first digits of it, or a folder.")],
) -> None:
    """Score texts: JSON lines on standard input, a JSON line with the reward for each on standard output.

    {"prompt", "completion"} gets a reward; {"prompt", "chosen", "rejected"} both rewards, their margin and P(chosen).
    `messages` may stand in place of `prompt`; `principle` belongs to a principle-conditioned model. A bad line is named
    on standard error, the others are scored, and the exit status is then 1.
    """
    from cai_dagster.checkpoints import find_checkpoint
    from cai_dagster.scored_texts import reading_of, score_lines

    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    folder = find_checkpoint(Home.from_environment(), "reward_model", model)
    messages = Console(stderr=True, highlight=False)
    reading = reading_of(folder)
    from cai_dagster.scoring import SCORE_BATCH, Scorer

    scorer = Scorer(folder)
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # pyright: ignore
    scored = bad = 0
    for line in score_lines(sys.stdin, reading, scorer.rewards, SCORE_BATCH):
        if line.error is None:
            scored += 1
            sys.stdout.write(json.dumps(line.result, ensure_ascii=False) + "\n")
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
    table: Annotated[str, typer.Option(help="sft_dataset or preference_pairs.")],
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
) -> None:
    """Write a table for other tools: SFT, preference, reward and KTO data with a dataset card."""
    from cai_dagster.exports import export_table
    from cai_dagster.lake import Lake

    lake = Lake(Home.from_environment())
    made = export_table(
        lake, table, export_format, version, output.absolute(), file_format, snapshot, licence, overwrite
    )
    splits = ", ".join(f"{count:,} {split}" for split, count in made.records.items())
    _console().print(f"{made.folder}: {splits}; snapshot {made.snapshot_id}", markup=False, soft_wrap=True)
    for code, count in made.rejected.items():
        _console().print(f"{count:,} rows are in rejected.jsonl: {code}", markup=False)


@imports.command("constitution")
def import_constitution(
    files: Annotated[
        list[Path],
        typer.Argument(help="JSON of llm-swarm or of Anthropic's prompts, Markdown, or text with a principle a line."),
    ],
    output: Annotated[Path, typer.Option(help="The file to write, such as constitutions/NAME.yaml.")],
    title: Annotated[str | None, typer.Option(help="Title; the first file's own, or its name, without it.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the texts, such as CC0-1.0.")] = "unknown",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Turn principles that others have written into a constitution of this project."""
    from cai_dagster.constitution_imports import read_constitution, write_constitution

    found = read_constitution(files)
    constitution = write_constitution(found, output, title, licence, overwrite)
    _console().print(f"{output}: {len(constitution.principles):,} principles", markup=False, soft_wrap=True)
    for note in found.left_out:
        _console().print(printable(f"left out: {note}"), markup=False, soft_wrap=True)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on localhost.")] = 3000) -> None:
    """Open the Dagster UI on this project's instance, with the demo's settings unless CAI_PROFILE says otherwise."""
    os.environ.setdefault("CAI_PROFILE", "demo")
    if not (Home.from_environment().dagster / "dagster.yaml").exists():
        setup()
    _run("dagster", "dev", "-w", "workspace.yaml", "--host", "127.0.0.1", "--port", str(port))


def _run(program: str, *arguments: str, interrupted: str = "") -> None:
    """Run a program of this environment in the project folder on this project's instance; exit as it did.

    Ctrl-C goes to it as well, and it is left the time to end in good order; `interrupted` is then said last.
    """
    executable = Path(sys.executable).parent / program
    environment = {**_QUIET, **os.environ, "DAGSTER_HOME": str(Home.from_environment().dagster)}
    process = subprocess.Popen([executable, *arguments], cwd=PROJECT, env=environment)  # noqa: S603
    try:
        status = process.wait()
    except KeyboardInterrupt:
        _wait_for_interrupted(process)
        if interrupted:
            _console().print(interrupted, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    if status:
        raise typer.Exit(status)


def _wait_for_interrupted(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end of a program that got the terminal's Ctrl-C too; interrupt it again when it takes too long."""
    while True:
        try:
            process.wait(GRACE_SECONDS)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            process.send_signal(signal.SIGINT)
        else:
            return


def _prepare_instance(home: Home) -> None:
    """Make this home's Dagster instance, where it has none yet."""
    instance = home.dagster / "dagster.yaml"
    if not instance.exists():
        home.dagster.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / "dagster.yaml", instance)
        _run("dagster", "instance", "concurrency", "set", "gpu", "1")


def _materialize(selection: str, version: str | None, config_of: dict[str, dict[str, Any]] | None = None) -> None:
    _prepare_instance(Home.from_environment())
    target = ["-m", GRAPH, "--select", selection, *(["--partition", version] if version else [])]
    ops = {asset: {"config": values} for asset, values in (config_of or {}).items()}
    config = ["--config-json", json.dumps({**_LOG_CONFIG, **({"ops": ops} if ops else {})})]
    _run("dagster", "asset", "materialize", *target, *config, interrupted=HOW_TO_GO_ON)


def _plan(versions: list[str], selection: list[str]) -> "CostPlan":
    from cai_dagster.configured_model import ConfiguredModel
    from cai_dagster.cost_plan import plan as make_plan

    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    settings = active_settings()
    policy, feedback_model = (
        ConfiguredModel(**model.model_dump()) for model in (settings.policy, settings.feedback_model)
    )
    progress = Console(stderr=True)
    return make_plan(Home.from_environment(), settings, policy, feedback_model, versions, selection, progress.print)


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def _calls_paid() -> int:
    from cai_dagster.ledger import Ledger

    return sum(Ledger(Home.from_environment().ledger).totals().values())
