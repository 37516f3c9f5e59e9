"""`cai principle`: one principle in all versions, in the terminal, as JSON, or as a page."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cai_dagster.commands.completion import complete_slug, complete_version
from cai_dagster.commands.options import version_named
from cai_dagster.commands.trace import LONGEST_TEXT, terminal
from cai_dagster.home import Home
from cai_dagster.text import printable

if TYPE_CHECKING:
    from cai_dagster.explain.principle_page import PrinciplePage

LONGEST_REQUEST = 4_000  # characters of a principle's text
_STYLES = {"same": "", "removed": "red strike", "added": "green underline"}
_MARKS = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}


def principle(
    slug: Annotated[str, typer.Argument(help="The slug of a principle.", autocompletion=complete_slug)],
    version: Annotated[
        str | None,
        typer.Option(
            help="Constitution version to tell of; all, without it.",
            autocompletion=complete_version,
            callback=version_named,
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Examples of revisions, and of judged pairs.")] = 3,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.", dir_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show a principle: texts, draws, decisions, agreement, examples.

    Its texts by version with word diffs, where it was drawn, how its judgements labelled pairs, its agreement with
    people, and what it changed.
    """
    from cai_dagster.explain.principle_page import principle_page
    from cai_dagster.pages.html import write_page

    page = principle_page(Home.existing(), slug, version, examples)
    if html is not None:
        write_page(html, to_html(page))
    if as_json:
        sys.stdout.write(json.dumps(page.to_json(), indent=2) + "\n")
    elif html is not None:
        terminal().print(Text(str(html)), soft_wrap=True)
    else:
        print_principle(page, terminal())


def to_html(page: "PrinciplePage") -> str:
    """The page of a principle: one file that opens from disk."""
    from cai_dagster.explain.nodes import transcript
    from cai_dagster.explain.principle_page import TEXTS
    from cai_dagster.pages.html import render

    values: dict[str, Any] = {"page": page, "texts": TEXTS, "transcript": transcript, "summary": _summary(page)}
    return render("principle.html", f"Principle {page.slug}", **values)


def print_principle(page: "PrinciplePage", console: Console) -> None:
    """Print what is known, the parts that there are."""
    console.print(Text(printable(page.slug), style="bold"), Text(_summary(page), style="dim"))
    _print_editions(page, console)
    _print_draws(page, console)
    _print_decisions(page, console)
    _print_agreements(page, console)
    _print_examples(page, console)


def _summary(page: "PrinciplePage") -> str:
    editions = len(page.editions)
    worded = f"{editions} wording{'s' if editions > 1 else ''}"
    return f"{worded}; {f'version {page.constitution_version}' if page.constitution_version else 'all versions'}"


def _print_editions(page: "PrinciplePage", console: Console) -> None:
    from cai_dagster.explain.principle_page import TEXTS

    before = None
    for edition in page.editions:
        versions = ", ".join(f"{version} (weight {weight:g})" for version, weight in edition.weights.items())
        console.print(Text(f"\n{edition.principle_id} in {printable(versions)}", style="bold cyan"))
        for name in TEXTS:
            text = getattr(edition, name)
            shown = (
                _difference(getattr(before, name), text, console) if before else Text(printable(text, LONGEST_REQUEST))
            )
            console.print(Text(f"{name}: ", style="green").append_text(shown))
        before = edition


def _difference(before: str, after: str, console: Console) -> Text:
    """A word diff: colours where there are some, marks where there are none."""
    from cai_dagster.pages.word_diff import word_diff

    text = Text()
    for piece in word_diff(printable(before, LONGEST_REQUEST), printable(after, LONGEST_REQUEST)):
        plain = piece.text if console.is_terminal else _MARKS[piece.kind].format(piece.text)
        text.append(plain, style=_STYLES[piece.kind])
    return text


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _print_draws(page: "PrinciplePage", console: Console) -> None:
    table = _table("Drawn for revisions", "version", "round", "drawn", "of", "share")
    for row in page.draws:
        counts = (str(row.round), f"{row.drawn:,}", f"{row.of:,}", f"{row.drawn / row.of:.1%}")
        table.add_row(printable(row.constitution_version), *counts)
    if page.draws:
        console.print("", table)


def _print_decisions(page: "PrinciplePage", console: Console) -> None:
    columns = ("pairs", "judged", "alone", "flipped", "|P − ½|", "orders agree", "P(A)", "P(completion_0) in tenths")
    table = _table("Judgements under it", "version", *columns)
    for row in page.decisions:
        agree = "–" if row.orders_agree is None else f"{row.orders_agree:.0%}"
        counts = (
            f"{row.pairs:,}",
            f"{row.judged:,} ({row.judged / row.pairs:.0%})",
            f"{row.alone:,}",
            f"{row.flipped:,}",
        )
        means = (f"{row.certainty:.3f}", agree, f"{row.p_a:.3f}", " ".join(map(str, row.histogram)))
        table.add_row(printable(row.constitution_version), *counts, *means)
    if page.decisions:
        console.print("", table)


def _print_agreements(page: "PrinciplePage", console: Console) -> None:
    table = _table("Agreement with people", "version", "pairs", "agreement", "95 % interval", "position bias")
    for row in page.agreements:
        known = row.agreement_low is not None and row.agreement_high is not None
        interval = f"{row.agreement_low:.3f}–{row.agreement_high:.3f}" if known else "–"
        bias = "–" if row.position_bias is None else f"{row.position_bias:.3f}"
        table.add_row(printable(row.constitution_version), f"{row.pairs:,}", f"{row.agreement:.3f}", interval, bias)
    if page.agreements:
        console.print("", table)


def _print_examples(page: "PrinciplePage", console: Console) -> None:
    from cai_dagster.explain.nodes import transcript

    for row in page.revisions:
        place = f"\nrevision in {row.constitution_version}, round {row.round}, of {row.prompt_id} ({row.source})"
        console.print(Text(printable(place), style="bold cyan"))
        for name, text in (("prompt", transcript(row.messages)), ("critique", row.critique)):
            console.print(
                Text(f"{name}: ", style="green").append(printable(text.strip(), LONGEST_TEXT), style="default")
            )
        changed = _difference(row.response[:LONGEST_TEXT], row.revision[:LONGEST_TEXT], console)
        console.print(Text("revision: ", style="green").append_text(changed))
    for row in page.pairs:
        console.print(Text(f"\npair {row.pair_id}: P(completion_0 is better) = {row.p_0:.3f}", style="bold cyan"))
        texts = {"prompt": transcript(row.messages), "completion_0": row.completion_0, "completion_1": row.completion_1}
        for name, text in texts.items():
            console.print(
                Text(f"{name}: ", style="green").append(printable(text.strip(), LONGEST_TEXT), style="default")
            )
