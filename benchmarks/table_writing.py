"""A million preference pairs: staged, validated and committed in one transaction, against a bare Parquet file."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account

PAIRS = 1_000_000
WORDS = 60  # each of chosen and rejected; about a kilobyte a row
REPEATS = 3


def measure() -> dict[str, Any]:
    """Median wall time of the validated, transactional write over that of `write_parquet`."""
    frame = _pairs()
    ratios: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        lake = Lake(home)
        _ = lake.materialized("preference_pairs")
        for repeat in range(REPEATS):
            bare = _seconds(lambda: frame.write_parquet(Path(folder) / "bare.parquet"))
            ours = _seconds(lambda: _write(lake, frame, f"v{repeat}"))  # noqa: B023
            ratios.append({"bare_s": bare, "ours_s": ours, "ratio": ours / bare})
    ratio = statistics.median(one["ratio"] for one in ratios)
    return {"results": {"write_ratio": ratio}, "details": {"pairs": PAIRS, "repeats": ratios}}


def _write(lake: Lake, frame: pl.DataFrame, version: str) -> None:
    staged = lake.stage("preference_pairs", version)
    staged.add_frame(frame)
    staged.close()
    lake.commit(staged, Account("benchmark", lake.data_version(staged)))


def _pairs() -> pl.DataFrame:
    number = pl.int_range(PAIRS)
    hexadecimal = number.hash(1).cast(pl.String).str.pad_start(32, "0")
    text = pl.concat_str([(number.hash(seed) % 100_000).cast(pl.String) for seed in range(WORDS)], separator=" ")

    def turn(role: str, content: pl.Expr) -> pl.Expr:
        return pl.concat_list(pl.struct(pl.lit(role).alias("role"), content.alias("content")))

    return pl.select(
        hexadecimal.alias("pair_id"),
        hexadecimal.alias("prompt_id"),
        turn("user", pl.concat_str(pl.lit("question "), number.cast(pl.String))).alias("prompt"),
        turn("assistant", text).alias("chosen"),
        turn("assistant", pl.concat_str(pl.lit("no, "), text)).alias("rejected"),
        (0.5 + 0.5 * (number % 1000 + 1) / 1000).alias("p_chosen"),
        pl.lit("soft").alias("label_policy"),
        pl.lit("sl_cai_model").alias("source"),
        pl.lit("preference").alias("split"),
    )


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
