"""`cai score`: texts scored with a reward model."""

import json
import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from cai_dagster.commands.completion import (
    complete_reward_model,
)
from cai_dagster.commands.dagster_process import QUIET
from cai_dagster.home import Home
from cai_dagster.text import printable

LINES_A_REPORT = 100


def score(
    model: Annotated[
        str,
        typer.Option(
            help="A reward model: its key, the first digits of it, or a folder.", autocompletion=complete_reward_model
        ),
    ],
) -> None:
    """Score texts with a reward model, JSON lines in and out.

    A JSON line on standard input gets a JSON line with its reward on standard output.

    {"prompt", "completion"} gets a reward; {"prompt", "chosen", "rejected"} both rewards, their margin and P(chosen).
    `messages` may stand in place of `prompt`; `principle` belongs to a principle-conditioned model. A bad line is named
    on standard error, the others are scored, and the exit status is then 1.
    """
    from cai_dagster.training.checkpoint_folders import find_checkpoint
    from cai_dagster.training.scored_texts import reading_of, score_lines

    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    folder = find_checkpoint(Home.existing(), "reward_model", model)
    messages = Console(stderr=True, highlight=False)
    reading = reading_of(folder)
    from cai_dagster.training.scoring import SCORE_BATCH, Scorer

    scorer = Scorer(folder)
    sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")  # pyright: ignore
    scored = bad = cut = 0
    for line in score_lines(sys.stdin, reading, scorer.rewards, SCORE_BATCH):
        if line.error is None:
            scored += 1
            cut += any(name.startswith("tokens_cut") for name in line.result)
            sys.stdout.write(json.dumps(line.result) + "\n")
            sys.stdout.flush()
        else:
            bad += 1
            messages.print(printable(f"line {line.line}: {line.error}"), markup=False, soft_wrap=True)
        if (scored + bad) % LINES_A_REPORT == 0:
            messages.print(f"{scored:,} lines scored, {bad:,} refused")
    messages.print(f"{scored:,} lines scored, {bad:,} refused, with {folder}", soft_wrap=True)
    if cut:
        messages.print(
            f"{cut:,} lines are longer than the {reading.max_length} tokens that the model reads: tokens_cut"
        )
    if bad:
        raise typer.Exit(1)
