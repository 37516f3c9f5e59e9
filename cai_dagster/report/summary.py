"""What a person wants to read before a run, its plan, and after it: an example, its labels, rows and cost.

It only reads the lake. All text from prompts and completions is shown as text: `printable`, and never as markup.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from cai_dagster.calls.token_counts import TokenCounts
from cai_dagster.judging.label_statistics import label_mass_of
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.newest import newest_materializations
from cai_dagster.lake.snapshots import FORGET_RUN
from cai_dagster.plan.cost import CostPlan
from cai_dagster.tables.registry import TABLES
from cai_dagster.text import printable

LONGEST_TEXT = 700

_EXAMPLE = """
    SELECT p.messages, i.completion, r.round, c.slug, r.critique, r.revision FROM lake.revision_rounds r
    JOIN lake.prompts p USING (prompt_id) JOIN lake.initial_responses i USING (prompt_id, sample)
    JOIN lake.constitution c USING (constitution_version, principle_id)
    WHERE r.constitution_version = $version AND r.revision <> r.response
    ORDER BY list_contains(c.tags, 'harmlessness') DESC, r.prompt_id, r.round LIMIT 1
"""
_PAIR = """
    SELECT p.pair_id, p.prompt, p.chosen, p.rejected, p.p_chosen, p.label_policy,
        list({slug: c.slug, "order": j."order", logp_a: j.logp_a, logp_b: j.logp_b} ORDER BY j."order") AS judged
    FROM lake.preference_pairs p JOIN lake.judgements j USING (constitution_version, pair_id)
    JOIN lake.constitution c ON c.constitution_version = j.constitution_version
        AND list_contains(j.principle_ids, c.principle_id)
    WHERE p.constitution_version = $version GROUP BY ALL ORDER BY p.p_chosen DESC, p.pair_id LIMIT 1
"""
_LATEST = newest_materializations(
    f"run_id <> '{FORGET_RUN}' AND (constitution_version IS NULL OR constitution_version = $version)"
)
_EVALUATION = "FROM lake.reward_model_evaluation WHERE constitution_version = $version AND slice = 'all'"
_COST = (
    *("materialized_at", "rows", "rejected", "ledger_hits", "ledger_misses"),
    *("prompt_tokens", "completion_tokens", "engine_seconds"),
)


def summary_json(lake: Lake, version: str) -> dict[str, Any]:
    """The numbers of `print_summary`: of the reward model (None where there is none), and of each table's last run.

    Raises LakeError when there is nothing yet.
    """
    lake.snapshot("constitution", version)
    scores = next(iter(_rows(lake, _EVALUATION, version)), None)
    left_out = {"constitution_version", "slice", "slice_value", "chosen_rewards", "rejected_rewards"}
    accounts = {row["table_name"]: row for row in _rows(lake, _LATEST, version)}
    tables: list[dict[str, Any]] = [
        {"table": name, **{column: accounts[name][column] for column in (*_COST, "seconds")}}
        for name in TABLES
        if name in accounts
    ]
    return {
        "constitution_version": version,
        "reward_model_evaluation": scores and {name: scores[name] for name in scores if name not in left_out},
        "tables": [{**table, "materialized_at": f"{table['materialized_at'].isoformat()}+00:00"} for table in tables],
    }


def print_summary(lake: Lake, version: str, console: Console) -> None:
    """Print what the lake holds for one constitution version; the parts that do not exist yet are left out.

    Raises LakeError when there is nothing yet.
    """
    lake.snapshot("constitution", version)
    for example in _rows(lake, _EXAMPLE, version):
        _print_example(example, version, console)
    for pair in _rows(lake, _PAIR, version):
        _print_pair(pair, console)
    for scores in _rows(lake, _EVALUATION, version):
        console.print(
            f"Reward model on {scores['pairs']} held-out pairs: accuracy {scores['accuracy']:.1%} "
            f"(longer wins: {scores['longer_wins_accuracy']:.1%}), log loss {scores['log_loss']:.4f} "
            f"(always one half: {scores['constant_log_loss']:.4f}), calibration error {scores['calibration_error']:.4f}"
        )
    _print_cost({row["table_name"]: row for row in _rows(lake, _LATEST, version)}, version, console)


def print_plan(made: CostPlan, console: Console) -> None:
    """Print what the selected assets would cost; `≤` marks upper bounds."""
    table = RichTable(title="Plan: calls to be paid for", title_justify="left")
    for column in ("asset", "version", "calls", "in ledger", "new", "tokens (95 % interval)", "seconds"):
        table.add_column(column, justify="left" if column in {"asset", "version"} else "right")
    for stage in made.stages:
        bound = "" if stage.exact else "≤ "
        tokens, seconds = f"not measured yet ({stage.tokens_low:,}–{stage.tokens_high:,})", "–"
        if stage.tokens_estimate is not None:
            tokens = f"{stage.tokens_estimate:,} ({stage.tokens_low:,}–{stage.tokens_high:,})"
        if stage.seconds_estimate is not None:
            seconds = f"{stage.seconds_estimate:,.0f}"
        counts = [f"{bound}{stage.calls:,}", f"{stage.in_ledger:,}", f"{bound}{stage.new:,}"]
        table.add_row(stage.asset, stage.constitution_version or "all", *counts, tokens, seconds)
    for checkpoint in made.checkpoints:
        seconds = "" if checkpoint.seconds_estimate is None else f"{checkpoint.seconds_estimate:,.0f}"
        state = {True: "there already", False: "to be trained", None: "as earlier stages turn out"}[checkpoint.exists]
        table.add_row(checkpoint.asset, checkpoint.constitution_version, "", "", "", state, seconds)
    console.print(table)
    new = sum(stage.new for stage in made.stages)
    bound = "" if all(stage.exact for stage in made.stages) else "at most "
    starts = f"{made.engine_starts} engine start{'s' * (made.engine_starts != 1)}"
    seconds = "" if made.seconds is None else f", about {made.seconds:,.0f} s as far as it was measured"
    console.print(
        f"Together {bound}{new:,} new calls, {starts}, {made.checks} checks{seconds}. "
        "≤: an upper bound, because an input does not exist yet."
    )


def import_json(lake: Lake, table: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How many rows a table has, how many were set aside, by reason, and the settings that keep it so."""
    rejected = Counter(reason.split(":", 1)[0] for reason in lake.rejected(table)["reason"])
    rows = lake.count("SELECT 1 FROM imported", imported=lake.snapshot(table))
    return {"table": table, "rows": rows, "rejected": dict(rejected.most_common()), "settings": dict(settings)}


def print_import(imported: Mapping[str, Any], console: Console) -> None:
    """Print what `import_json` says."""
    table, rejected = imported["table"], imported["rejected"]
    would = " would come out of it" if imported["dry_run"] else ""
    console.print(f"{table}: {imported['rows']:,} rows, {sum(rejected.values()):,} rejected{would}")
    for reason, count in rejected.items():
        console.print(Text(f"  {count:,} × {printable(reason)}"))
    lines = [f"[default.{table}]", *(f"{name} = {json.dumps(value)}" for name, value in imported["settings"].items())]
    console.print("To have the same rows whenever the graph is materialized, put this into settings.toml:")
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _rows(lake: Lake, sql: str, version: str) -> list[dict[str, Any]]:
    return lake.select(sql, {"version": version}).to_dicts()


def _print_example(row: dict[str, Any], version: str, console: Console) -> None:
    text = Text()
    for title, content in (
        ("prompt", row["messages"][-1]["content"]),
        ("first response", row["completion"]),
        (f"principle (round {row['round']})", row["slug"]),
        ("critique", row["critique"]),
        ("revision", row["revision"]),
    ):
        text.append(f"{title}\n", style="bold")
        text.append(printable(content.strip(), LONGEST_TEXT) + "\n\n")
    text.rstrip()
    console.print(Panel(text, title=f"One prompt under constitution {version}", title_align="left"))


def _print_pair(row: dict[str, Any], console: Console) -> None:
    text = Text()
    for title in ("chosen", "rejected"):
        text.append(f"{title}\n", style="bold")
        text.append(printable(row[title][0]["content"].strip(), LONGEST_TEXT) + "\n\n")
    for judged in row["judged"]:
        a, b = math.exp(judged["logp_a"]), math.exp(judged["logp_b"])
        mass = label_mass_of(judged["logp_a"], judged["logp_b"])
        shown = "completion 0 as (A)" if judged["order"] == "01" else "completion 1 as (A)"
        text.append(f"{printable(judged['slug'])}, {shown}: P(A) = {a:.3f}, P(B) = {b:.3f}, mass {mass:.3f}\n")
    text.append(f"label ({printable(row['label_policy'])}): P(chosen) = {row['p_chosen']:.3f}")
    console.print(Panel(text, title="One preference pair and its label", title_align="left"))


def _speed(row: dict[str, Any]) -> str:
    """Tokens of prompts, then of completions, a second in which the engine was asked."""
    tokens = TokenCounts(row["prompt_tokens"], row["completion_tokens"])
    return " + ".join(f"{speed:,.0f}" for speed in tokens.a_second(row["engine_seconds"]))


def _print_cost(latest: dict[str, dict[str, Any]], version: str, console: Console) -> None:
    table = RichTable(title=f"Tables for constitution {version}", title_justify="left")
    for column in ("table", "rows", "rejected", "calls paid", "from ledger", "tokens", "tokens/s", "seconds"):
        table.add_column(column, justify="left" if column == "table" else "right")
    for name in TABLES:
        row = latest.get(name)
        if row is None:
            continue
        tokens = row["prompt_tokens"] + row["completion_tokens"]
        calls = row["ledger_misses"] + row["ledger_hits"]
        cells = [f"{row['rows']:,}", f"{row['rejected']:,}"]
        cells += [f"{row['ledger_misses']:,}", f"{row['ledger_hits']:,}"] if calls else ["", ""]
        cells += [f"{tokens:,}", _speed(row)] if tokens else ["", ""]
        table.add_row(name, *cells, f"{row['seconds']:.1f}")
    console.print(table)
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in latest.values())
    console.print(f"Together: {tokens:,} tokens, {sum(row['seconds'] for row in latest.values()):.0f} s in the stages.")
