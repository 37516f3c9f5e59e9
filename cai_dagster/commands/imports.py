"""`cai import`: human-labelled pairs and constitutions of others."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cai_dagster.commands.dagster_process import materialize
from cai_dagster.commands.output import console, print_json
from cai_dagster.home import Home
from cai_dagster.inputs.preference_formats import PreferenceFormat
from cai_dagster.text import printable

imports = typer.Typer(help="Bring in what others have written.", no_args_is_help=True)


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
    }
    config: dict[str, Any] = {"sources": [str(file.absolute()) for file in files], "format": layout.value}
    config |= {name: value for name, value in given.items() if value is not None}
    materialize("human_preferences", None, {"human_preferences": config})
    imported = import_json(Lake(Home.from_environment()), "human_preferences", config)
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
        print_json({**document, "left_out": list(found.left_out)})
        return
    console().print(f"{output}: {len(constitution.principles):,} principles", markup=False, soft_wrap=True)
    for note in found.left_out:
        console().print(printable(f"left out: {note}"), markup=False, soft_wrap=True)
