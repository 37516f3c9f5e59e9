"""A home with 200 constitution versions and a million rows, to see what stays usable: scripted, no model wrote it.

Each version edits one of 16 principles, so that it shares most rows and calls with the version before, as real ones
do. `python -m benchmarks.large_lake FOLDER` makes one to try the program on: `CAI_HOME=FOLDER cai status`.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.requests import Answer, PaidCall, Slot
from cai_dagster.checks.declarations import CHECKS
from cai_dagster.constitution.constitution import Constitution, Principle
from cai_dagster.hashing import content_hash
from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account
from cai_dagster.recipes.critique_revision import CRITIQUE, REVISION
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import CODE_VERSION, CheckpointRecord

VERSIONS = 200
ROWS = 1_000_000
PRINCIPLES = 16
ROUNDS = 4
WORDS = 30
MODEL = "scripted"


@dataclass(frozen=True)
class Size:
    """Versions, and prompts of each: a prompt of a version has four rounds, two judgements, a pair and a label."""

    versions: int
    prompts: int

    @classmethod
    def of(cls, versions: int, rows: int) -> "Size":
        """The size at which the tables hold about `rows` rows together."""
        return cls(versions, rows // versions // (ROUNDS + 5))


def build(home: Home, versions: int = VERSIONS, rows: int = ROWS) -> Size:
    """Fill an empty home."""
    size = Size.of(versions, rows)
    lake, ledger = Lake(home), Ledger(home.ledger)
    prompts = _prompts(size.prompts)
    _commit(lake, "prompts", None, prompts.select("prompt_id", "messages", "source", "sources", "category", "split"))
    first = _initial_responses(prompts)
    _commit(lake, "initial_responses", None, first, _cost(first.height))
    _pay(ledger, "initial_responses", first.select("prompt_id", "request_id", text="completion"))
    paid: set[str] = set()
    for number in range(1, versions + 1):
        _fill_version(home, lake, ledger, prompts, number, paid)
    return size


def commit_judged_pairs(lake: Lake, version: str, pairs: int) -> None:
    """Fill the tables that the labels of a version are made of: pairs of first and last answers, judged twice."""
    prompts = _prompts(pairs)
    constitution = _constitution(1)
    principle_ids = [principle.id for principle in constitution.principles]
    revised = prompts.select(
        "prompt_id",
        pl.lit(ROUNDS).alias("round"),
        _text(pl.col("prompt_id"), 17).alias("revision"),
        _hexadecimal(pl.lit("revision"), pl.col("prompt_id"), digits=64).alias("revision_request_id"),
    )
    made = _pairs(prompts, revised)
    _commit(lake, "prompts", None, prompts.drop("number"))
    _commit(lake, "constitution", version, pl.DataFrame(constitution.to_rows(), infer_schema_length=None))
    _commit(lake, "response_pairs", version, made.drop("principle"))
    _commit(lake, "judgements", version, _judgements(made, principle_ids))


def version_name(number: int) -> str:
    """`v001`, `v002`, …"""
    return f"v{number:03d}"


def _fill_version(home: Home, lake: Lake, ledger: Ledger, prompts: pl.DataFrame, number: int, paid: set[str]) -> None:
    version = version_name(number)
    constitution = _constitution(number)
    _commit(lake, "constitution", version, pl.DataFrame(constitution.to_rows(), infer_schema_length=None))
    principle_ids = [principle.id for principle in constitution.principles]
    rounds = _rounds(prompts, principle_ids)
    pairs = _pairs(prompts, rounds)
    judgements = _judgements(pairs, principle_ids)
    tables = {
        "revision_rounds": rounds,
        "sft_dataset": _sft(prompts, rounds),
        "response_pairs": pairs.drop("principle"),
        "judgements": judgements,
        "preference_pairs": _preferences(prompts, pairs, judgements),
    }
    calls = {
        CRITIQUE: rounds.select("prompt_id", request_id="critique_request_id", text="critique"),
        REVISION: rounds.select("prompt_id", request_id="revision_request_id", text="revision"),
        "judgements": judgements.join(pairs.select("pair_id", "prompt_id"), on="pair_id").select(
            "prompt_id", "request_id", text=pl.lit("A")
        ),
    }
    new = {
        stage: frame.filter(pl.Series([request_id not in paid for request_id in frame["request_id"]]))
        for stage, frame in calls.items()
    }
    for stage, frame in new.items():
        _pay(ledger, stage, frame)
        paid.update(frame["request_id"])
    misses = {"revision_rounds": new[CRITIQUE].height * 2, "judgements": new["judgements"].height}
    for table, frame in tables.items():
        snapshot = _commit(lake, table, version, frame, _cost(misses.get(table, 0)))
    _train(home, lake, version, snapshot, tables["preference_pairs"].height)
    _check(lake, version, number)


def _constitution(number: int) -> Constitution:
    principles = []
    for index in range(PRINCIPLES):
        edition = _edition(number, index)
        texts = (f"{what} under principle {index}, edition {edition}." for what in ("Criticise", "Revise", "Compare"))
        principles.append(Principle(f"principle-{index:02d}", *texts, tags=("harmlessness",)))
    return Constitution(version_name(number), tuple(principles))


def _edition(number: int, index: int) -> int:
    """How often principle `index` had been edited when version `number` was made: each version edits one."""
    return (number - index + PRINCIPLES - 1) // PRINCIPLES


def _hexadecimal(*parts: pl.Expr, digits: int = 32) -> pl.Expr:
    """A hash of the parts as hex digits."""
    digit = pl.concat_str(*(part.cast(pl.String) for part in parts), separator="/").hash(1)
    text = pl.concat_str(*(digit.hash(seed).cast(pl.String).str.pad_start(20, "0") for seed in range(4)))
    return text.str.slice(0, digits)


def _text(key: pl.Expr, seed: int) -> pl.Expr:
    words = ((key.hash(seed).hash(word) % 5_000).cast(pl.String) for word in range(WORDS))
    return pl.concat_str(*(pl.concat_str(pl.lit("word"), word) for word in words), separator=" ")


def _turns(**contents: pl.Expr) -> pl.Expr:
    return pl.concat_list(
        *(pl.struct(pl.lit(role).alias("role"), text.alias("content")) for role, text in contents.items())
    )


def _prompts(count: int) -> pl.DataFrame:
    number = pl.int_range(count)
    question = pl.concat_str(pl.lit("question "), number.cast(pl.String), pl.lit(": "), _text(number, 7))
    return pl.select(
        _hexadecimal(number).alias("prompt_id"),
        _turns(user=question).alias("messages"),
        pl.concat_str(pl.lit("questions.jsonl:"), (number + 1).cast(pl.String)).alias("source"),
        pl.concat_list(pl.concat_str(pl.lit("questions.jsonl:"), (number + 1).cast(pl.String))).alias("sources"),
        pl.concat_str(pl.lit("category "), (number % 8).cast(pl.String)).alias("category"),
        pl.when(number % 5 < 2)
        .then(pl.lit("sft"))
        .when(number % 5 < 4)
        .then(pl.lit("preference"))
        .otherwise(pl.lit("evaluation"))
        .alias("split"),
        number.alias("number"),
    )


def _initial_responses(prompts: pl.DataFrame) -> pl.DataFrame:
    return prompts.select(
        "prompt_id",
        pl.lit(0).alias("sample"),
        _text(pl.col("prompt_id"), 11).alias("completion"),
        pl.lit(None, pl.String).alias("reasoning"),
        pl.lit("stop").alias("finish_reason"),
        _hexadecimal(pl.lit("initial"), pl.col("prompt_id"), digits=64).alias("request_id"),
        pl.lit(MODEL).alias("policy_model"),
    )


def _rounds(prompts: pl.DataFrame, principle_ids: list[str]) -> pl.DataFrame:
    """Every round of every prompt: its texts depend on the principles drawn until then, edits and all."""
    principles = pl.DataFrame({"principle": list(range(PRINCIPLES)), "principle_id": principle_ids})
    frames: list[pl.DataFrame] = []
    latest = prompts.select("prompt_id", response=_text(pl.col("prompt_id"), 11))
    for round_number in range(1, ROUNDS + 1):
        draw = (pl.col("prompt_id").hash(round_number) % PRINCIPLES).cast(pl.Int64)
        key = _hexadecimal(pl.col("response"), pl.col("principle_id"), digits=40)
        drawn = latest.with_columns(draw.alias("principle"))
        one = drawn.join(principles, on="principle", maintain_order="left").with_columns(key.alias("key"))
        one = one.with_columns(
            pl.lit(0).alias("sample"),
            pl.lit(round_number).alias("round"),
            _text(pl.col("key"), 13).alias("critique"),
            _text(pl.col("key"), 17).alias("revision"),
            *(pl.lit(None, pl.String).alias(name) for name in ("critique_reasoning", "revision_reasoning")),
            pl.lit("stop").alias("critique_finish_reason"),
            pl.lit("stop").alias("revision_finish_reason"),
            _hexadecimal(pl.lit("critique"), pl.col("key"), digits=64).alias("critique_request_id"),
            _hexadecimal(pl.lit("revision"), pl.col("key"), digits=64).alias("revision_request_id"),
        )
        frames.append(one.drop("principle", "key"))
        latest = one.select("prompt_id", response="revision")
    return pl.concat(frames)


def _sft(prompts: pl.DataFrame, rounds: pl.DataFrame) -> pl.DataFrame:
    last = rounds.filter(pl.col("round") == ROUNDS).join(prompts.select("prompt_id", "messages"), on="prompt_id")
    prompt = pl.col("messages").list.first().struct.field("content")
    messages = _turns(user=prompt, assistant=pl.col("revision"))
    return last.select("prompt_id", "sample", "round", messages=messages)


def _pairs(prompts: pl.DataFrame, rounds: pl.DataFrame) -> pl.DataFrame:
    """y^0 against y^n; the principle of a pair's judgements follows the prompt."""
    last = rounds.filter(pl.col("round") == ROUNDS).select(
        "prompt_id", completion_1="revision", request_id_1="revision_request_id"
    )
    first = _initial_responses(prompts).select("prompt_id", completion_0="completion", request_id_0="request_id")
    return first.join(last, on="prompt_id", maintain_order="left").with_columns(
        _hexadecimal(pl.col("prompt_id"), pl.col("completion_1")).alias("pair_id"),
        pl.lit("revisions").alias("source"),
        *(pl.lit(None, pl.String).alias(name) for name in ("reasoning_0", "reasoning_1")),
        pl.lit("stop").alias("finish_reason_0"),
        pl.lit("stop").alias("finish_reason_1"),
        (pl.col("prompt_id").hash(99) % PRINCIPLES).cast(pl.Int64).alias("principle"),
    )


def _judgements(pairs: pl.DataFrame, principle_ids: list[str]) -> pl.DataFrame:
    frames: list[pl.DataFrame] = []
    for order in ("01", "10"):
        identifier = pl.col("principle").replace_strict(dict(enumerate(principle_ids)), return_dtype=pl.String)
        key = _hexadecimal(pl.col("pair_id"), identifier, pl.lit(order), digits=40)
        p_a = 0.05 + 0.9 * (key.hash(3) % 1_000) / 1_000
        frames.append(
            pairs.select(
                "pair_id",
                identifier.alias("principle_id"),
                pl.lit(order).alias("order"),
                p_a.log().alias("logp_a"),
                (1 - p_a).log().alias("logp_b"),
                pl.lit(None, pl.String).alias("rationale"),
                pl.lit(MODEL).alias("feedback_model"),
                _hexadecimal(pl.lit("judgement"), key, digits=64).alias("request_id"),
                pl.lit("one_principle").alias("method"),
                pl.concat_list(identifier).alias("principle_ids"),
                pl.lit(1.0).alias("principle_weight"),
                pl.lit(None, pl.String).alias("rationale_finish_reason"),
                pl.lit(None, pl.String).alias("rationale_request_id"),
                *(pl.lit(None, pl.List(pl.Float64)).alias(name) for name in ("score_logprobs_0", "score_logprobs_1")),
                *(pl.lit(None, pl.Float64).alias(name) for name in ("score_0", "score_1")),
                pl.lit(None, pl.List(pl.String)).alias("score_request_ids"),
            )
        )
    return pl.concat(frames)


def _preferences(prompts: pl.DataFrame, pairs: pl.DataFrame, judgements: pl.DataFrame) -> pl.DataFrame:
    p_0 = pl.when(pl.col("order") == "01").then(pl.col("logp_a").exp()).otherwise(pl.col("logp_b").exp())
    labels = judgements.group_by("pair_id").agg(p_0.mean().alias("p_0")).filter(pl.col("p_0") != 0.5)
    rows = pairs.join(labels, on="pair_id").join(prompts.select("prompt_id", "messages", "split"), on="prompt_id")
    first = pl.col("p_0") > 0.5
    return rows.select(
        "pair_id",
        "prompt_id",
        pl.col("messages").alias("prompt"),
        _turns(assistant=pl.when(first).then("completion_0").otherwise("completion_1")).alias("chosen"),
        _turns(assistant=pl.when(first).then("completion_1").otherwise("completion_0")).alias("rejected"),
        pl.max_horizontal("p_0", 1 - pl.col("p_0")).alias("p_chosen"),
        pl.lit("soft, mean over principles").alias("label_policy"),
        "source",
        "split",
    )


def _cost(misses: int) -> Mapping[str, Any]:
    return {
        "ledger_misses": misses,
        "prompt_tokens": 200 * misses,
        "completion_tokens": 40 * misses,
        "engine_seconds": misses / 50,
        "seconds": misses / 40,
        "model_id": MODEL,
    }


def _commit(
    lake: Lake, table: str, version: str | None, frame: pl.DataFrame, cost: Mapping[str, Any] | None = None
) -> int:
    staged = lake.stage(table, version)
    staged.add_frame(frame)
    staged.close()
    return lake.commit(staged, Account(f"run-{version}", lake.data_version(staged), **(cost or {})))


def _pay(ledger: Ledger, stage: str, calls: pl.DataFrame) -> None:
    ledger.put(
        PaidCall(row["request_id"], MODEL, Slot(stage, row["prompt_id"]), Answer(row["text"], "stop", 200, 40, 0.5))
        for row in calls.iter_rows(named=True)
    )


def _train(home: Home, lake: Lake, version: str, snapshot: int, pairs: int) -> None:
    """A checkpoint's record, and no weights."""
    key = content_hash(["reward_model", version], 32)
    record = CheckpointRecord(
        asset="reward_model",
        checkpoint_key=key,
        constitution_version=version,
        base_model=MODEL,
        label_policy="soft, mean over principles",
        settings={},
        lake_snapshots=dict.fromkeys(("preference_pairs", "response_pairs", "judgements", "prompts"), snapshot),
        row_counts={"trained": pairs},
        metrics={},
        loss_curve=[(step, 0.7 - step / 1_000) for step in range(1, 101)],
        seconds=60,
        code_version=CODE_VERSION,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    folder = home.models / "reward_model" / key
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(record.model_dump_json())
    row = {"checkpoint_key": key, "path": str(folder), "base_model": MODEL, "rows": pairs}
    _commit(lake, "reward_model", version, pl.DataFrame({**row, "record": record.model_dump_json()}))


def _check(lake: Lake, version: str, number: int) -> None:
    checked_at = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None) + timedelta(hours=number)
    bounds = active_settings().checks
    accounts = "SELECT table_name, data_version FROM lake.materializations WHERE constitution_version = $version"
    data_versions = dict(lake.select(accounts, {"version": version}).iter_rows())
    for check in CHECKS:
        if check.table not in data_versions:  # shared by all versions, or not made here
            continue
        settings = getattr(bounds, check.name)
        value = (number % 20) / 20
        result = {
            "table_name": check.table,
            "constitution_version": version,
            "check_name": check.name,
            "run_id": f"run-{version}",
            "checked_at": checked_at,
            "passed": settings.passes(value),
            "severity": str(settings.severity),
            "value": value,
            "bounds": settings.bounds,
            "rows": 1_000,
            "data_version": data_versions[check.table],
        }
        lake.append("check_results", result)


if __name__ == "__main__":
    began = time.monotonic()
    made = build(Home(Path(sys.argv[1]).resolve()), *(int(argument) for argument in sys.argv[2:]))
    print(f"{made.versions} versions of {made.prompts:,} prompts in {time.monotonic() - began:.0f} s")
