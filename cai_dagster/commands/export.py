"""`cai export`: data sets for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from cai_dagster.commands.completion import (
    complete_exported,
)
from cai_dagster.commands.lake import lake_to_read
from cai_dagster.commands.options import Version
from cai_dagster.commands.output import console, print_json
from cai_dagster.exports.formats import ExportFormat, FileFormat


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

    lake = lake_to_read()
    made = export_table(
        lake, table, export_format, version, output.absolute(), file_format, snapshot, licence, overwrite
    )
    if as_json:
        counts = {"records": dict(made.records), "rejected": dict(made.rejected)}
        print_json({"folder": str(made.folder), "snapshot_id": made.snapshot_id, **counts})
        return
    splits = ", ".join(f"{count:,} {split}" for split, count in made.records.items())
    console().print(f"{made.folder}: {splits}; snapshot {made.snapshot_id}", markup=False, soft_wrap=True)
    for code, count in made.rejected.items():
        console().print(f"{count:,} rows are in rejected.jsonl: {code}", markup=False)
