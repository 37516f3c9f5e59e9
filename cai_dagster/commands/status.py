"""`cai status`: where every version stands, at a glance."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cai_dagster.commands.options import version_option
from cai_dagster.constitution.versions import VERSION_PATTERN, files_of_no_version
from cai_dagster.home import Home
from cai_dagster.project import CONSTITUTIONS
from cai_dagster.tables.registry import TABLES
from cai_dagster.text import printable

if TYPE_CHECKING:
    from cai_dagster.upkeep.status import AssetStatus, Status, VersionStatus

NEWEST = 20  # versions in the overview, without --all
_MARKS = {"fresh": ("✓", "green"), "stale": ("~", "yellow"), "failed": ("✗", "bold red"), "never_made": ("·", "dim")}


def status(
    version: Annotated[
        list[str] | None,
        version_option("Show this constitution version asset by asset; once for each."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List all versions, not only the newest.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 where a check of severity ERROR failed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show where each version stands: made, stale, failed, cost."""
    from cai_dagster.upkeep.status import State, read_status

    found = read_status(Home.existing(), CONSTITUTIONS, version or ())
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=2) + "\n")
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
        print_status(found, console, details=bool(version) or len(found.versions) == 1, every=every)
        for name in files_of_no_version(CONSTITUTIONS):
            text = f"constitutions/{name} is no version: a version is named {VERSION_PATTERN.pattern}.yaml; rename it"
            console.print(printable(text), markup=False, soft_wrap=True)
    if exit_code and any(asset.state == State.failed for asset in found.assets):
        raise typer.Exit(1)


def print_status(found: "Status", console: Console, details: bool, every: bool) -> None:
    """An overview with a line a version; or, with `details`, a table a version."""
    if not any(asset.made_at for asset in found.assets):
        console.print("Nothing has been made yet. `cai demo` makes everything for one version, `cai ui` opens the UI.")
    if details:
        _print_assets(console, "All versions", found.shared)
        for one in found.versions:
            name = printable(one.constitution_version)
            title = name if one.has_file else f"{name} (its file is no longer in constitutions/)"
            _print_assets(console, title, one.assets)
        return
    shown = found.versions if every else found.versions[:NEWEST]
    console.print(_overview(found.shared, shown))
    console.print(_legend(found))
    console.print(_summary(found), markup=False)
    if len(shown) < len(found.versions):
        console.print(f"{len(found.versions) - len(shown):,} older versions are not listed: --all lists them.")


def _overview(shared: "Sequence[AssetStatus]", versions: "Sequence[VersionStatus]") -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("version", no_wrap=True)
    table.add_column("assets", no_wrap=True)
    for column in ("checks", "rows", "calls paid", "tokens", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("latest", no_wrap=True)
    table.add_column("what to look at")  # the one column that gives way where the terminal is narrow
    table.add_row(*_line("(shared)", shared, has_file=True))
    for one in versions:
        table.add_row(*_line(one.constitution_version, one.assets, one.has_file))
    return table


def _line(name: str, assets: "Sequence[AssetStatus]", has_file: bool) -> list[Text | str]:
    marks = Text()
    for asset in assets:
        mark, style = _MARKS[asset.state]
        marks.append(mark, style)
    made = [asset.made_at for asset in assets if asset.made_at]
    failed = sum(asset.checks.failed for asset in assets)
    checks = Text(str(sum(asset.checks.passed for asset in assets)), "green")
    if failed:
        checks.append(f" {failed}✗", "bold red")
    if warned := sum(asset.checks.warned for asset in assets):
        checks.append(f" {warned}!", "yellow")
    if not_measured := sum(asset.checks.not_measured for asset in assets):
        checks.append(f" {not_measured}?", "dim")
    return [
        Text(printable(name)),
        marks,
        checks,
        f"{sum(asset.rows for asset in assets):,}",
        f"{sum(asset.calls_paid for asset in assets):,}",
        short_number(sum(asset.tokens for asset in assets)),
        short_time(sum(asset.seconds for asset in assets)),
        _age(max(made)) if made else "never",
        Text(_problem(assets, has_file), no_wrap=True, overflow="ellipsis"),
    ]


def _problem(assets: "Iterable[AssetStatus]", has_file: bool) -> str:
    """The first thing that is wrong: what follows from it goes away with it."""
    gone = "" if has_file else "no file in constitutions/"
    for state in ("failed", "stale"):
        wrong = [asset for asset in assets if asset.state == state]
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            return printable(f"{wrong[0].asset}{more}: {wrong[0].because}{'; ' + gone if gone else ''}", 200)
    warned = [f"{asset.asset}.{check}" for asset in assets for check in asset.warned]
    more = f" and {len(warned) - 1} more" if len(warned) > 1 else ""
    return gone or (f"warned: {warned[0]}{more}" if warned else "")


def _print_assets(console: Console, title: str, assets: "Sequence[AssetStatus]") -> None:
    """A table, and below it why an asset is not fresh: beside the numbers there is no room for it."""
    console.print(_assets(title, assets))
    if any(asset.prompt_tokens_per_second for asset in assets):
        console.print(_speeds(assets))
    for asset in assets:
        if asset.because:
            mark, style = _MARKS[asset.state]
            console.print(Text.assemble((f"{mark} ", style), f"{asset.asset}: {printable(asset.because, 400)}"))
        if asset.warned:
            console.print(Text.assemble(("! ", "yellow"), f"{asset.asset}: warned: {', '.join(asset.warned)}"))
    console.print()


def _assets(title: str, assets: "Sequence[AssetStatus]") -> Table:
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("asset", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for column in ("rows", "rejected", "checks", "calls paid", "tokens", "time"):
        wide = column == "checks"  # its counts take two lines rather than the room of the other columns
        table.add_column(column, justify="right", no_wrap=not wide, max_width=20 if wide else None)
    table.add_column("made", no_wrap=True)
    for asset in assets:
        mark, style = _MARKS[asset.state]
        name = asset.state.replace("_", " ")
        if asset.made_at is None:
            table.add_row(asset.asset, Text(f"{mark} {name}", style))
            continue
        table.add_row(
            asset.asset,
            Text(f"{mark} {name}", style),
            f"{asset.rows:,}",
            f"{asset.rejected:,}",
            _checks(asset),
            f"{asset.calls_paid:,}",
            short_number(asset.tokens),
            short_time(asset.seconds),
            _age(asset.made_at),
        )
    return table


def _speeds(assets: "Sequence[AssetStatus]") -> Table:
    """How fast the calls that were paid for were answered."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("calls paid for", no_wrap=True)
    for column in ("prompt tokens/s", "completion tokens/s", "of prompts cached"):
        table.add_column(column, justify="right", no_wrap=True)
    for asset in assets:
        if asset.prompt_tokens_per_second:
            cached = f"{100 * (asset.cached_prompt_share or 0.0):.0f} %"
            speeds = (asset.prompt_tokens_per_second, asset.completion_tokens_per_second or 0.0)
            table.add_row(asset.asset, *(f"{speed:,.0f}" for speed in speeds), cached)
    return table


def _checks(asset: "AssetStatus") -> Text:
    counts = asset.checks
    shown = Text()
    for count, word, style in (
        (counts.passed, "passed", "green"),
        (counts.failed, "failed", "bold red"),
        (counts.warned, "warned", "yellow"),
        (counts.not_measured, "not measured", "dim"),
        (counts.outdated, "outdated", "dim"),
    ):
        if count:
            shown.append(f"{', ' if shown else ''}{count} {word}", style)
    return shown


def _legend(found: "Status") -> Text:
    order = next((one.assets for one in found.versions), ())
    required = [asset.asset for asset in order if not TABLES[asset.asset].on_demand]
    text = Text(f"\nassets, in order: {', '.join(required)}, then what was made on demand", "dim")
    text.append(f"; shared: {', '.join(asset.asset for asset in found.shared)}\n", "dim")
    for state, (mark, style) in _MARKS.items():
        text.append(mark, style)
        text.append(f" {state.replace('_', ' ')}   ", "dim")
    text.append("checks: passed, failed ✗, warned !, not measured ?", "dim")
    return text


def _summary(found: "Status") -> str:
    states = Counter(asset.state.value for asset in found.assets)
    complete = sum(all(asset.state == "fresh" for asset in one.assets) for one in found.versions)
    calls = sum(asset.calls_paid for asset in found.assets)
    tokens = sum(asset.tokens for asset in found.assets)
    return (
        f"{len(found.versions):,} versions, {complete:,} complete and fresh; of {len(found.assets):,} tables "
        f"{states['fresh']:,} fresh, {states['stale']:,} stale, {states['failed']:,} failed, "
        f"{states['never_made']:,} never made. {calls:,} calls paid, {short_number(tokens)} tokens."
    )


def short_number(number: float) -> str:
    """`950`, `12.3k`, `4.5M`"""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.1f}{unit}"
    return f"{number:.0f}"


def short_time(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`"""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def _age(made_at: datetime) -> str:
    seconds = (datetime.now(UTC) - made_at).total_seconds()
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
