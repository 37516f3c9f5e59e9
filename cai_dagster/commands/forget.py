"""`cai forget`: remove a prompt for good, and say what is left of it."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cai_dagster.commands.trace import checkpoint_line, terminal
from cai_dagster.home import Home
from cai_dagster.text import printable

if TYPE_CHECKING:
    from cai_dagster.upkeep.forget import Remembered

MOST_CHECKPOINTS = 20


def forget(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT_ID", help="The prompt's id, or its first digits.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    expire_snapshots: Annotated[
        bool,
        typer.Option(
            "--expire-snapshots",
            help="Remove every snapshot but the current one too, so that the text is gone from the disk. Nothing else "
            "may be running.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; asks nothing, so --yes or --dry-run.")] = False,
) -> None:
    """Remove a prompt for good from tables and ledger.

    Its rows in every table and version and its calls in the ledger; checkpoints that saw it, and what else still holds
    it, are named. It does not come back with the next materialization.
    """
    from cai_dagster.upkeep import forget as forgetting

    if as_json and not (yes or dry_run):
        raise typer.BadParameter("--json asks no question: add --yes or --dry-run")
    home = Home.existing()
    found = forgetting.remembered(home, prompt)
    console = Console(stderr=True, highlight=False) if as_json else terminal()
    if not as_json:
        print_remembered(found, console)
    if not (dry_run or yes):
        typer.confirm("Remove all this for good?", abort=True)
    expired: int | None = None
    if not dry_run:
        forgetting.forget(home, found)
        if expire_snapshots:
            expired = forgetting.expire_snapshots(home)
    if as_json:
        made: dict[str, Any] = {"removed": not dry_run, "snapshots_expired": expired}
        sys.stdout.write(json.dumps({**found.to_json(), **made}, indent=2) + "\n")
    else:
        _print_done(found, console, dry_run, expired)


def print_remembered(found: "Remembered", console: Console) -> None:
    """Print what there is of the prompt."""
    console.print(Text(f"prompt {found.prompt_id}", style="bold"))
    if found.forgotten_before:
        console.print("It is on the list of forgotten prompts already.")
    for table, count in found.rows.items():
        console.print(Text(f"  {count:,} row{'s' if count > 1 else ''} of {table}"))
    console.print(Text(f"  {found.ledger_calls:,} calls in the ledger"))
    if found.checkpoints:
        console.print("Checkpoints that saw it. They are not changed; materialize them again to train without it:")
        for one in found.checkpoints[:MOST_CHECKPOINTS]:
            console.print(Text("  ").append_text(checkpoint_line(one)))
        if len(found.checkpoints) > MOST_CHECKPOINTS:
            console.print(f"  and {len(found.checkpoints) - MOST_CHECKPOINTS:,} more: --json has all of them")


def _print_done(found: "Remembered", console: Console, dry_run: bool, expired: int | None) -> None:
    console.print("Nothing was removed (--dry-run)." if dry_run else "Removed from the tables and from the ledger.")
    if expired is not None:
        console.print(
            f"{expired:,} snapshots are gone, and the files that only they had. The records of checkpoints still name "
            "them: `AT (VERSION => n)` no longer gives back what they were trained on."
        )
    elif found.snapshots:
        console.print(
            f"Snapshots of the lake that hold it and can still be read: {ranges(found.snapshots)}. Its text is still "
            f"on the disk. `cai forget {found.prompt_id} --expire-snapshots` removes all snapshots but the current one "
            "and the text with them; afterwards no checkpoint's exact training rows can be read back."
        )
    else:
        console.print("No snapshot of the lake holds it.")
    console.print("Not touched, look there yourself:")
    for source in found.sources:
        console.print(
            Text(f"  {printable(source)}, where it was read from: it stays out of the table prompts from now on")
        )
    for place in found.elsewhere:
        console.print(Text(f"  {printable(place)}"), soft_wrap=True)
    console.print("  weights of the checkpoints above")


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, in short: `3 to 5, 9`"""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
