"""`cai trace`: a tree of where a row comes from, and what became of it."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from cai_dagster.commands.completion import complete_traced, complete_version
from cai_dagster.commands.options import version_named
from cai_dagster.home import Home
from cai_dagster.text import printable

if TYPE_CHECKING:
    from cai_dagster.explain.checkpoints import Trained
    from cai_dagster.explain.nodes import Node, Trace
    from cai_dagster.explain.rows import RowCount

LONGEST_TEXT = 300
LONGEST_FACTS = 4_000  # of a row together: a checkpoint's settings, but also a category of any length
MOST_VERSIONS = 6  # named, of the versions that have rows
MOST_CHECKPOINTS = 12


def trace(
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A prompt_id, pair_id, principle_id, checkpoint key or request_id (its first digits are enough), or "
            "the slug of a principle.",
            autocompletion=complete_traced,
        ),
    ],
    version: Annotated[
        str | None,
        typer.Option(
            help="Constitution version to tell of; the last written that has it, without it.",
            autocompletion=complete_version,
            callback=version_named,
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Training rows of a checkpoint to follow back.")] = 1,
    full: Annotated[bool, typer.Option("--full", help="Show texts whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a tree.")] = False,
) -> None:
    """Say where a row comes from and which checkpoints it went into.

    Backwards to judgements, critiques, first response, prompt, the line of its file and the calls in the ledger;
    forwards to every row and every checkpoint whose training rows contain it.
    """
    from cai_dagster.explain.trace import trace as find

    found = find(Home.existing(), identifier, version, examples)
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=2, default=str) + "\n")
    else:
        print_trace(found, terminal(), None if full else LONGEST_TEXT)


def terminal() -> Console:
    """Standard output, as wide as a page where it is no terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def print_trace(found: "Trace", console: Console, longest: int | None) -> None:
    """Print the tree backwards, then the rows and checkpoints forwards."""
    tree = Tree(_line("backwards", found.versions, found.constitution_version), guide_style="dim")
    _grow(tree, found.backwards, longest)
    console.print(tree)
    forwards = Tree(Text("forwards", style="bold"), guide_style="dim")
    rows = forwards.add(Text("rows", style="bold"))
    for table in dict.fromkeys(count.table for count in found.rows):
        rows.add(_rows_line(table, [count for count in found.rows if count.table == table]))
    if found.checkpoints is not None:
        _add_checkpoints(forwards, found.checkpoints)
    console.print(forwards)


def _line(title: str, versions: Sequence[str], chosen: str | None) -> Text:
    text = Text(title, style="bold")
    if chosen is not None:
        others = len(versions) - 1
        also = (
            f"; {others:,} other version{'s' if others > 1 else ''} ha{'ve' if others > 1 else 's'} it"
            if others
            else ""
        )
        text.append(f" (constitution version {printable(chosen)}{also})", style="not bold dim")
    return text


def _grow(tree: Tree, node: "Node", longest: int | None) -> None:
    label = Text(node.kind, style="bold")
    label.append(f" {printable(node.id)}", style="cyan not bold")
    branch = tree.add(label)
    facts = _FACTS.get(node.kind, _all_facts)(node.facts)
    if facts:
        branch.add(Text(printable(facts, None if longest is None else LONGEST_FACTS), style="dim"))
    for name, text in node.texts.items():
        branch.add(
            Text(f"{printable(name)}: ", style="green").append(printable(text.strip(), longest), style="default")
        )
    for child in node.children:
        _grow(branch, child, longest)


def _all_facts(facts: Mapping[str, Any]) -> str:
    known = {name: value for name, value in facts.items() if value not in (None, [], {})}
    return ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in known.items())


def _request_facts(facts: Mapping[str, Any]) -> str:
    if not facts["in_ledger"]:
        return f"{facts['made']}: not in the ledger"
    tokens = f"{facts['prompt_tokens']:,} + {facts['completion_tokens']:,} tokens in {facts['seconds']:.1f} s"
    ended = f"ended with {facts['finish_reason']}"
    again = f", made again for {facts['retried_for']}" if "retried_for" in facts else ""
    return (
        f"{facts['made']}: {facts['stage']}, {tokens} at {facts['created_at']} by {facts['model_id']}, {ended}{again}"
    )


def _judgement_facts(facts: Mapping[str, Any]) -> str:
    shown = f"{facts['shown_as_a']} as (A): P(A) = {facts['p_a']:.3f}, P(B) = {facts['p_b']:.3f}"
    better = facts["p_completion_0"]
    says = "neither is possible" if better is None else f"P(completion_0 is better) = {better:.3f}"
    under = ", ".join(facts["principles"]) or facts["principle_id"]
    return (
        f"{shown}; {says}, under {under}; {facts['method']} by {facts['feedback_model']}; snapshot {facts['snapshot']}"
    )


def _snapshot_facts(facts: Mapping[str, Any]) -> str:
    return "its rows are still the same" if facts["unchanged"] else "its rows have been replaced since"


def _checkpoint_facts(facts: Mapping[str, Any]) -> str:
    used = f"in use for {_named(facts['in_use_for'])}" if facts["in_use_for"] else "no longer in use"
    policy = f"; label policy {facts['label_policy']}" if facts["label_policy"] else ""
    counts, metrics, settings = (
        ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in facts[part].items())
        for part in ("row_counts", "metrics", "settings")
    )
    return (
        f"{facts['asset']} of constitution version {facts['constitution_version']}, {used}; started from "
        f"{facts['base_model']}{policy}\nrows: {counts}\nmetrics: {metrics}\nsettings: {settings}\n"
        f"trained for {facts['seconds']:,.0f} s until {facts['created_at']}, code version {facts['code_version']}"
    )


def _training_facts(facts: Mapping[str, Any]) -> str:
    now = "" if facts["exact"] else ", as the tables are now: its snapshot was expired"
    return f"{facts['rows']:,} row{'' if facts['rows'] == 1 else 's'}{now}: {facts['sql']}"


_FACTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "checkpoint": _checkpoint_facts,
    "judgement": _judgement_facts,
    "request": _request_facts,
    "snapshot": _snapshot_facts,
    "training rows": _training_facts,
}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _rows_line(table: str, counts: "Sequence[RowCount]") -> Text:
    total = sum(count.rows for count in counts)
    text = Text(f"{table}: {total:,} row{'s' if total > 1 else ''}")
    versions = [count.constitution_version for count in counts if count.constitution_version is not None]
    if versions:
        text.append(f" in {_named(versions)}", style="dim")
    example = next((count.example for count in reversed(counts) if count.example), None)
    if example:
        text.append(f", such as {printable(example)}", style="dim")
    return text


def _named(versions: Sequence[str]) -> str:
    shown = ", ".join(printable(version) for version in versions[:MOST_VERSIONS])
    return shown if len(versions) <= MOST_VERSIONS else f"{len(versions):,} versions ({shown}, …)"


def _add_checkpoints(tree: Tree, checkpoints: "Sequence[Trained]") -> None:
    branch = tree.add(Text(f"checkpoints: {len(checkpoints):,}", style="bold"))
    for one in checkpoints[:MOST_CHECKPOINTS]:
        branch.add(checkpoint_line(one))
    if len(checkpoints) > MOST_CHECKPOINTS:
        branch.add(Text(f"and {len(checkpoints) - MOST_CHECKPOINTS:,} more: --json has all of them", style="dim"))


def checkpoint_line(trained: "Trained") -> Text:
    """A checkpoint and how it saw what was asked for."""
    checkpoint = trained.checkpoint
    text = Text(f"{checkpoint.asset} ")
    text.append(checkpoint.key, style="cyan")
    used = f", in use for {_named(checkpoint.versions)}" if checkpoint.versions else ", no longer in use"
    if trained.through is not None:
        how = f": made from {trained.through.asset} {trained.through.key}"
    else:
        how = f": {trained.training_rows:,} of its training rows"
        how += "" if trained.exact else " (as the tables are now: its snapshot was expired)"
    text.append(f"{how}{used}", style="dim")
    return text
