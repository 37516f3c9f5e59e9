"""`cai import`: prompts, human-labelled pairs and constitutions of others."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cai_dagster.commands.dagster_process import materialize
from cai_dagster.commands.output import console, print_json
from cai_dagster.home import Home
from cai_dagster.inputs.preference_formats import PreferenceFormat
from cai_dagster.text import LONGEST_CELL, printable

if TYPE_CHECKING:
    from cai_dagster.inputs.human_preferences import RejectedPair
    from cai_dagster.inputs.import_report import ImportReport
    from cai_dagster.inputs.prompts import RejectedPrompt

DRY_RUN = typer.Option("--dry-run", help="Say what would be read, and write nothing.")

imports = typer.Typer(help="Bring in what others have written.", no_args_is_help=True)


@dataclass
class _Found:
    """How many rows an import would make, and how many it would set aside, by the first word of the reason."""

    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter[str])

    def keep(self, _: object) -> None:
        """Count a row."""
        self.rows += 1

    def reject(self, row: "RejectedPair | RejectedPrompt") -> None:
        """Count a row that is none."""
        self.rejected[row.reason.partition(":")[0]] += 1


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
    dry_run: Annotated[bool, DRY_RUN] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fill human_preferences from data sets that people labelled.

    Says what is read of each file and how, and what was set aside and why.
    """
    from cai_dagster.inputs.decontamination import evaluation_sets
    from cai_dagster.inputs.human_preferences import read_human_preferences
    from cai_dagster.inputs.import_report import ImportReport
    from cai_dagster.settings import active_settings

    settings = active_settings()
    given = {
        "prompt_column": prompt,
        "chosen_column": chosen,
        "rejected_column": rejected,
        "category_column": category,
        "votes_chosen_column": votes_chosen,
        "votes_rejected_column": votes_rejected,
    }
    config: dict[str, Any] = {"sources": [str(file.absolute()) for file in files], "format": layout.value}
    config |= {name: value for name, value in given.items() if value is not None}
    report, found = ImportReport(), _Found()
    read_human_preferences(
        settings.human_preferences.model_copy(update={**config, "format": layout}),
        settings.prompts,
        found.keep,
        found.reject,
        evaluation_sets(settings.decontamination),
        forgotten_prompts_of(Home.from_environment()),
        report,
    )
    _import("human_preferences", config, found, report, dry_run, as_json)


@imports.command("prompts")
def import_prompts(
    files: Annotated[list[Path], typer.Argument(help="Files or folders with prompts.", exists=True)],
    prompt: Annotated[str | None, typer.Option(help="Column with the prompt.")] = None,
    messages: Annotated[str | None, typer.Option(help="Column with the turns.")] = None,
    category: Annotated[str | None, typer.Option(help="Column with a category.")] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fill prompts from files of your own.

    Says what is read of each file and how, and what was set aside and why. How long a prompt is in tokens is looked at
    when the table is filled.
    """
    from cai_dagster.inputs.decontamination import evaluation_sets
    from cai_dagster.inputs.import_report import ImportReport
    from cai_dagster.inputs.prompts import read_prompts
    from cai_dagster.settings import active_settings

    settings = active_settings()
    given = {"prompt_column": prompt, "messages_column": messages, "category_column": category}
    config: dict[str, Any] = {"sources": [str(file.absolute()) for file in files]}
    config |= {name: value for name, value in given.items() if value is not None}
    report, found = ImportReport(), _Found()
    read_prompts(
        settings.prompts.model_copy(update=config),
        lambda _: 0,
        found.keep,
        found.reject,
        evaluation_sets(settings.decontamination),
        forgotten_prompts_of(Home.from_environment()),
        report,
    )
    _import("prompts", config, found, report, dry_run, as_json)


def forgotten_prompts_of(home: Home) -> frozenset[str]:
    """The ids of the prompts that must not come back; none where there is no home yet."""
    from cai_dagster.lake.forgotten_prompts import forgotten_prompts

    return frozenset(forgotten_prompts(home)) if home.root.exists() else frozenset()


def _import(
    table: str, config: dict[str, Any], found: _Found, report: "ImportReport", dry_run: bool, as_json: bool
) -> None:
    """Say what was read, and fill the table with it unless that is all that is wanted."""
    from cai_dagster.lake.lake import Lake
    from cai_dagster.report.summary import import_json, print_import

    if not as_json:
        for line in report.lines():
            console().print(printable(line), markup=False, soft_wrap=True)
    rejected = dict(found.rejected.most_common())
    imported = {"table": table, "rows": found.rows, "rejected": rejected, "settings": config}
    if not dry_run:
        materialize(table, None, {table: config})
        imported = import_json(Lake(Home.from_environment()), table, config)
    imported |= {"sources": report.to_json(), "dry_run": dry_run}
    if as_json:
        print_json(imported)
    else:
        print_import(imported, console())


@imports.command("constitution")
def import_constitution(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="JSON of llm-swarm or of Anthropic's prompts, Markdown, or text with a principle a line.", exists=True
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="The file to write, such as constitutions/NAME.yaml.")] = None,
    title: Annotated[str | None, typer.Option(help="Title; the first file's own, or its name, without it.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the texts, such as CC0-1.0.")] = "unknown",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    dry_run: Annotated[bool, DRY_RUN] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a constitution of principles that others have written."""
    from cai_dagster.inputs.constitutions import read_constitution, write_constitution

    found = read_constitution(files)
    if not dry_run:
        if output is None:
            raise typer.BadParameter("name the file to write, or ask for a --dry-run", param_hint="--output")
        write_constitution(found, output, title, licence, overwrite)
    if as_json:
        document: dict[str, Any] = {"file": str(output.absolute()) if output else None, "dry_run": dry_run}
        document["principles"] = [one.slug for one in found.principles]
        print_json({**document, "left_out": list(found.left_out)})
        return
    sources = ", ".join(found.sources)
    heading = (
        f"{sources}: {len(found.principles):,} principles would be written"
        if dry_run
        else (f"{output}: {len(found.principles):,} principles")
    )
    console().print(heading, markup=False, soft_wrap=True)
    for principle in found.principles if dry_run else ():
        line = f"{principle.slug}: {principle.revision_request}"
        console().print(printable(line, LONGEST_CELL), markup=False, soft_wrap=True)
    for note in found.left_out:
        console().print(printable(f"left out: {note}"), markup=False, soft_wrap=True)
