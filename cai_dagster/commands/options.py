"""Options that several commands share."""

from typing import Annotated

import typer

from cai_dagster.commands.completion import (
    complete_version,
)

Version = Annotated[
    str,
    typer.Option(help="Constitution version: the stem of a file in constitutions/.", autocompletion=complete_version),
]
