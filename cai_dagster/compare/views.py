"""A constitution diff for people: in a terminal, as a page, and as markdown for the UI.

Principles, prompts and completions are text wherever they are shown: control characters appear as their escapes, and
nothing of them becomes markup.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from cai_dagster.checks.history import CheckHistory, history_part
from cai_dagster.compare.completions import CompletionExample
from cai_dagster.compare.diff import ConstitutionDiff
from cai_dagster.compare.labels import LabelChange
from cai_dagster.compare.principles import EarlierWording, PrincipleChange
from cai_dagster.compare.runs import CheckResult, Cost, CostChange
from cai_dagster.compare.scores import PolicyWinRate, RewardModelChange, WinRate
from cai_dagster.exports.dataset_card import escaped
from cai_dagster.home import Home
from cai_dagster.pages.html import render
from cai_dagster.pages.word_diff import word_diff
from cai_dagster.text import printable

LONGEST_TEXT = 600  # characters of a text in a terminal
_MISSING = "–"
_ROWS_OF = {"revision_rounds": "rounds", "judgements": "judgements"}
_STYLES = {"same": ("{}", ""), "removed": ("[-{}-]", "red"), "added": ("{{+{}+}}", "green")}


def print_diff(diff: ConstitutionDiff, console: Console) -> None:
    """Print all of it; a part that one of the versions does not have yet is named as missing."""
    console.print(Text(_shown(f"{diff.before} → {diff.after}"), "bold"))
    _heading(console, "Principles", headline(diff))
    for line in earlier_lines(diff):
        console.print(Text(_shown(line)))
    for principle in diff.principles:
        _print_principle(principle, console)
    if diff.tables:
        _heading(console, "Rows", "shared: equal in all columns but the version; changed: the same key, other content")
        console.print(_rows_table(diff))
    _print_completions(diff, console)
    _print_labels(diff, console)
    _heading(console, "Whose revisions are preferred", "")
    for line in win_rate_lines(diff):
        console.print(Text(_shown(line)))
    for title, explained, column, scores in score_tables(diff):
        _heading(console, title, explained)
        console.print(_table([column, diff.before, diff.after], scores, "left"))
    if diff.checks:
        _heading(console, "Checks", "")
        console.print(_checks_table(diff))
    if diff.costs:
        _heading(console, "Cost", "all materializations of each version together")
        console.print(_costs_table(diff))


def page_path(home: Home, diff: ConstitutionDiff) -> Path:
    """Where the asset writes the page."""
    return home.reports / "comparisons" / f"{diff.before}-{diff.after}.html"


def page(diff: ConstitutionDiff, history: CheckHistory | None = None) -> str:
    """One HTML file; with the checks over all versions, where their history is given."""
    about = [diff.before, diff.after]
    return render(
        "constitution_diff.html",
        f"{diff.before} → {diff.after}",
        diff=diff,
        check_history=history_part(history, about) if history and history.lines else None,
        headline=headline(diff),
        earlier=earlier_lines(diff),
        win_rates=win_rate_lines(diff),
        revisions=completions_line(diff),
        labels=labels_line(diff),
        scores=score_tables(diff),
        costs=_noticeable(diff.costs),
        check=_check,
        way=_way,
        count=_count,
        cost_cells=_cost,
        drawn=_drawn,
        weights=_weights,
    )


def markdown_summary(diff: ConstitutionDiff) -> str:
    """The counts, a few flips and the win rates: what one reads in the UI."""
    lines = [f"**{escaped(diff.before)} → {escaped(diff.after)}**: {escaped(headline(diff))}"]
    lines += [f"\n{escaped(line)}" for line in earlier_lines(diff)]
    principles = [[one.slug, one.change, _weights(one), _drawn(one)] for one in diff.principles]
    lines += _markdown_table(["principle", "change", "weight", "rounds that drew it"], principles)
    rows = [
        [one.table, *map(_count, (one.rows_before, one.rows_after, one.shared, one.changed))] for one in diff.tables
    ]
    lines += _markdown_table(["table", diff.before, diff.after, "shared", "changed"], rows)
    lines += ["", escaped(completions_line(diff)), "", escaped(labels_line(diff)), ""]
    if diff.labels:
        flips = [
            [one.prompt, one.label_before, one.label_after, f"{one.p_before:.3f} → {one.p_after:.3f}"]
            for one in diff.labels.flips
        ]
        lines += _markdown_table(["prompt", diff.before, diff.after, "P(completion_0)"], flips)
    lines += [f"* {escaped(line)}" for line in win_rate_lines(diff)]
    for title, explained, column, scores in score_tables(diff):
        lines += ["", escaped(f"{title}: {explained}"), ""]
        lines += _markdown_table([column, diff.before, diff.after], scores)
    checks = [[f"{one.table}/{one.check}", _check(one.before), _check(one.after)] for one in diff.checks]
    lines += _markdown_table(["check", diff.before, diff.after], checks)
    return "\n".join(lines)


def headline(diff: ConstitutionDiff) -> str:
    """`1 edited, 1 added, 15 unchanged`"""
    counts: dict[str, int] = {}
    for principle in diff.principles:
        counts[principle.change] = counts.get(principle.change, 0) + 1
    parts = [f"{count:,} {change}" for change, count in counts.items()]
    text = ", ".join([*parts, f"{diff.unchanged_principles:,} unchanged"])
    if diff.few_shot_changed:
        text += f"; the few-shot {' and '.join(diff.few_shot_changed)} differ, and with them every call that shows them"
    return text


def earlier_lines(diff: ConstitutionDiff) -> list[str]:
    """A sentence for each table that a version made before its constitution was edited in place; what to do."""
    found: dict[tuple[str, str], list[EarlierWording]] = {}
    for wording in diff.earlier_wordings:
        found.setdefault((wording.version, wording.table), []).append(wording)
    return [
        f"{version}'s {_ROWS_OF[table]} are of an earlier edition of its constitution: some were made under wordings "
        f"that it no longer has ({'; '.join(f'{one.rows:,} under {one.principle}' for one in wordings)}). "
        f"Materialize {table} for {version} again."
        for (version, table), wordings in found.items()
    ]


def completions_line(diff: ConstitutionDiff) -> str:
    """How many final revisions are other ones."""
    if diff.completions is None:
        return _not_made(diff, "revision_rounds")
    compared, changed = diff.completions.compared, diff.completions.changed
    return f"{changed:,} of {compared:,} final revisions are other ones{_percent(changed, compared)}."


def labels_line(diff: ConstitutionDiff) -> str:
    """Agreement and flips, in a sentence."""
    labels = diff.labels
    if labels is None:
        return _not_made(diff, "preference_pairs")
    if not labels.pairs:
        return "No pair was judged in both versions: each has completions of its own."
    kappa = "undefined (all labels are the same)" if labels.cohen_kappa is None else f"{labels.cohen_kappa:.3f}"
    return (
        f"{labels.pairs:,} pairs were judged in both versions: agreement {labels.agreement:.1%}, Cohen's kappa "
        f"{kappa}; {labels.flipped:,} flipped, {labels.gained:,} gained a label, {labels.lost:,} lost theirs; P moved "
        f"by {labels.mean_p_change:.3f} in the mean."
    )


def win_rate_lines(diff: ConstitutionDiff) -> list[str]:
    """A sentence for each version's principles; how to measure it where nobody has."""
    if not diff.win_rates:
        return [
            f"Not measured yet. `cai diff {diff.before} {diff.after} --judge` asks the feedback model (or materialize "
            f"version_judgements for {diff.after})."
        ]
    return [_win_rate(diff, rate) for rate in diff.win_rates]


def score_tables(diff: ConstitutionDiff) -> list[tuple[str, str, str, list[list[str]]]]:
    """How good the reward models and policies are: title, what it is, the first column, rows with both versions."""
    models = [row for change in diff.reward_model for row in _reward_model_rows(change)]
    policies = [[one.policy, *(_policy(score) for score in (one.before, one.after))] for one in diff.policies]
    tables = [
        (
            "Reward model",
            "on held-out pairs; each version by its own labels, but people's and a benchmark's are the same",
            "measure",
            models,
        ),
        ("Policies", "win rate against all others of the same version, under its own principles", "policy", policies),
    ]
    return [table for table in tables if table[-1]]


def _win_rate(diff: ConstitutionDiff, rate: WinRate) -> str:
    line = (
        f"Under the principles of {rate.judged_by}: {diff.after}'s revision is preferred to {diff.before}'s in "
        f"{_interval(rate.win_rate, rate.low, rate.high)} of {rate.pairs:,} comparisons over {rate.prompts:,} prompts, "
        f"both orders averaged (mean P {rate.p_better:.3f})."
    )
    if rate.mirrored:
        line += f" What was judged is {diff.before} against {diff.after}: this is the other side."
    return line


def _reward_model_rows(change: RewardModelChange) -> list[list[str]]:
    both = (change.before, change.after)
    accuracies = [
        _MISSING if one is None else f"{_interval(one.accuracy, one.low, one.high)} of {one.pairs:,}" for one in both
    ]
    if change.slice != "all":
        return [[f"accuracy, {change.slice}", *accuracies]]
    return [
        ["accuracy", *accuracies],
        ["log loss", *(_MISSING if one is None else f"{one.log_loss:.4f}" for one in both)],
        ["calibration error", *(_MISSING if one is None else f"{one.calibration_error:.4f}" for one in both)],
        ["length correlation", *(_number(one and one.length_correlation) for one in both)],
    ]


def _policy(score: PolicyWinRate | None) -> str:
    return _MISSING if score is None else f"{_interval(score.win_rate, score.low, score.high)} of {score.prompts:,}"


def _way(diff: ConstitutionDiff, example: CompletionExample) -> str:
    """`round 1, one-principle → another`"""
    before, after = example.principle_before, example.principle_after
    if before is None:
        return f"round {example.round}, which {diff.after} alone has, {after}"
    if after is None:
        return f"round {example.round}, which {diff.before} alone has, {before}"
    return f"round {example.round}, {before}" + ("" if after == before else f" → {after}")


def _interval(share: float, low: float | None, high: float | None) -> str:
    """`50.0% (33.3%–66.7%)`"""
    return f"{share:.1%}" if low is None or high is None else f"{share:.1%} ({low:.1%}–{high:.1%})"


def _not_made(diff: ConstitutionDiff, table: str) -> str:
    return f"{table} has not been made for both {diff.before} and {diff.after}."


def _percent(part: int, whole: int) -> str:
    return f" ({part / whole:.1%})" if whole else ""


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.4g}"


def _count(value: float | None) -> str:
    return _MISSING if value is None else f"{value:,.0f}"


def _weights(principle: PrincipleChange) -> str:
    before, after = principle.weight_before, principle.weight_after
    return _number(after) if before == after else f"{_number(before)} → {_number(after)}"


def _drawn(principle: PrincipleChange) -> str:
    drawn = (principle.drawn_before, principle.drawn_after)
    return " → ".join(map(_count, drawn))


def _check(result: CheckResult | None) -> str:
    """`0.12 ✓ (at most 0.3)`"""
    if result is None:
        return "not run"
    if result.value is None:
        return f"not measured ({result.bounds})"
    mark = "✓" if result.passed else ("✗" if result.severity == "ERROR" else "!")
    return f"{_number(result.value)} {mark} ({result.bounds})"


def _shown(text: str) -> str:
    return printable(text, LONGEST_TEXT)


def _heading(console: Console, title: str, explained: str) -> None:
    console.print()
    console.print(Text(title, "bold"), Text(_shown(explained), "dim"), sep="  ")


def _difference(before: str, after: str) -> Text:
    """A word diff with the marks of `git diff --word-diff`."""
    text = Text()
    for piece in word_diff(_shown(before), _shown(after)):
        mark, style = _STYLES[piece.kind]
        # The marks enclose the words and leave the white space after them outside.
        words = piece.text.rstrip()
        text.append(mark.format(words) if words else "", style)
        text.append(piece.text[len(words) :])
    return text


def _print_principle(principle: PrincipleChange, console: Console) -> None:
    title = Text(f"\n{_shown(principle.slug)}", "bold")
    title.append(f"  {principle.change}; weight {_weights(principle)}; drawn in {_drawn(principle)} rounds", "dim")
    console.print(title)
    for text in principle.texts:
        line = Text(f"  {text.field}: ", "dim")
        line.append_text(_difference(text.before or "", text.after or ""))
        console.print(line, soft_wrap=False)


def _print_completions(diff: ConstitutionDiff, console: Console) -> None:
    _heading(console, "Final revisions", completions_line(diff))
    if diff.completions is None:
        return
    for example in diff.completions.examples:
        text = Text(f"\nprompt {example.prompt_id[:8]} ({_shown(_way(diff, example))}): ", "dim")
        console.print(text.append_text(Text(_shown(example.prompt), "not dim")))
        console.print(_difference(example.before, example.after))


def _print_labels(diff: ConstitutionDiff, console: Console) -> None:
    _heading(console, "Labels", labels_line(diff))
    if diff.labels is None:
        return
    for title, examples in (("flipped", diff.labels.flips), ("biggest change in P", diff.labels.biggest_p_changes)):
        shown = [one for one in examples if title == "flipped" or one not in diff.labels.flips]
        for example in shown:
            console.print(_pair(title, example))


def _pair(title: str, example: LabelChange) -> Text:
    text = Text(f"\n{title}: ", "dim")
    text.append(
        f"P(completion_0) {example.p_before:.3f} → {example.p_after:.3f}, label {example.label_before} → "
        f"{example.label_after}\n"
    )
    principles = [", ".join(slugs) for slugs in (example.principles_before, example.principles_after)]
    text.append(f"judged by {_shown(' → '.join(dict.fromkeys(principles)))}\n", "dim")
    for name, content in (
        ("prompt", example.prompt),
        ("completion_0", example.completion_0),
        ("completion_1", example.completion_1),
    ):
        text.append(f"  {name}: ", "dim")
        text.append(f"{_shown(content.strip())}\n")
    text.rstrip()
    return text


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], justify: JustifyMethod = "right") -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        name = Text(_shown(column))
        table.add_column(name, justify=justify if number else "left", overflow="fold", no_wrap=not number)
    for row in rows:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    return table


def _rows_table(diff: ConstitutionDiff) -> Table:
    columns = ["table", diff.before, diff.after, "shared", "changed", f"only {diff.before}", f"only {diff.after}"]
    counts = (
        [one.rows_before, one.rows_after, one.shared, one.changed, one.only_before, one.only_after]
        for one in diff.tables
    )
    rows = ([one.table, *map(_count, row)] for one, row in zip(diff.tables, counts, strict=True))
    return _table(columns, rows)


def _checks_table(diff: ConstitutionDiff) -> Table:
    rows = ([f"{one.table}/{one.check}", _check(one.before), _check(one.after)] for one in diff.checks)
    return _table(["check", diff.before, diff.after], rows, "left")


def _costs_table(diff: ConstitutionDiff) -> Table:
    columns = ["table", "calls paid", "found in ledger", "tokens", "seconds"]
    return _table(columns, ([cost.table, *_cost(cost)] for cost in _noticeable(diff.costs)))


def _cost(cost: CostChange) -> list[str]:
    """`76 → 12` for each figure."""
    both = [[None] * len(fields(Cost)) if one is None else astuple(one) for one in (cost.before, cost.after)]
    return [f"{_count(before)} → {_count(after)}" for before, after in zip(*both, strict=True)]


def _noticeable(costs: Sequence[CostChange]) -> list[CostChange]:
    """Those that cost a call or a second, and their sum."""
    shown = [cost for cost in costs if any(max(astuple(one)) >= 1 for one in (cost.before, cost.after) if one)]
    together = CostChange("together", _sum(cost.before for cost in shown), _sum(cost.after for cost in shown))
    return [*shown, together] if len(shown) > 1 else shown


def _sum(costs: Iterable[Cost | None]) -> Cost | None:
    known = [astuple(cost) for cost in costs if cost]
    return Cost(*map(sum, zip(*known, strict=True))) if known else None


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    lines = ["", f"| {' | '.join(map(escaped, columns))} |", f"{'|---' * len(columns)}|"]
    return [*lines, *(f"| {' | '.join(map(escaped, row))} |" for row in rows), ""]
