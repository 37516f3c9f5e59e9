"""The assets that are materialized on demand, with scripted models and trainers, after a whole graph."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import polars as pl
import pytest

from cai_dagster.home import Home
from cai_dagster.project import PROJECT
from resources.lake import open_lake

CHECKPOINTS = ["teacher_sft_model", "dpo_model", "rlaif_model"]
ALL_POLICIES = {"initial_responses", "revision_rounds", "sl_cai_model", "best_of_n", *CHECKPOINTS}
PROGRAM = """
import json, sys
from tests.fault_workloads import EVERYTHING, script_the_trainers
script_the_trainers()
from cai_dagster.definitions import POLICY_OPTIMIZATION
from tests.scripted_graph import materialize, metadata, write_prompts
from pathlib import Path
names = [asset.key.to_user_string() for asset in POLICY_OPTIMIZATION]
config = {
    "prompts": {**write_prompts(Path(sys.argv[1]), [f"question {n}" for n in range(16)]), "sft_share": 0.3},
    "revision_rounds": {"rounds": 1}, "sft_dataset": {"min_rows": 1}, "reward_model": {"min_pairs": 1},
    "dpo_model": {"min_pairs": 1}, "rlaif_model": {"min_prompts": 1}, "best_of_n_candidates": {"n": 3},
    "policy_evaluation": {"resamples": 200},
}
def shown(result, assets):
    return {asset: {key: str(value) for key, value in metadata(result, asset).items()} for asset in assets}
ALWAYS = ["policy_responses", "policy_judgements", "policy_evaluation"]
materialize(EVERYTHING, config, voice="steady")
before = shown(materialize(ALWAYS, config, voice="steady"), ALWAYS)
first = shown(materialize(names, config, voice="steady"), names)
again = shown(materialize(names, config, voice="steady"), names)
materialize(["teacher_sft_model"], config, version="v2", voice="steady")
print(json.dumps({"before": before, "first": first, "again": again}))
"""


@dataclass(frozen=True)
class Made:
    """A home, and the metadata of each materialization."""

    home: Home
    metadata: dict[str, dict[str, dict[str, str]]]

    def table(self, name: str, version: str | None = "v1") -> pl.DataFrame:
        return open_lake(self.home).snapshot(name, version).frame()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> "Made":
    """What a process of its own has made: the trainers are replaced there for good."""
    folder = tmp_path_factory.mktemp("policies")
    home = Home((folder / "home").resolve())
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "prompts.jsonl")],
        cwd=PROJECT,
        env={**os.environ, "CAI_HOME": str(home.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return Made(home, json.loads(finished.stdout.splitlines()[-1]))


def test_policies_that_are_absent_are_named_and_the_others_compared(made: Made) -> None:
    before = made.metadata["before"]
    absent = {"dpo_model", "rlaif_model", "teacher_sft_model", "best_of_n"}
    assert set(json.loads(before["policy_evaluation"]["absent_policies"].replace("'", '"'))) == absent
    assert "| sl_cai_model |" in before["policy_evaluation"]["policies"]
    assert made.metadata["first"]["policy_evaluation"]["absent_policies"] == "[]"


def test_every_policy_answers_every_evaluation_prompt_once(made: Made) -> None:
    prompts = made.table("prompts", None).filter(pl.col("split") == "evaluation")["prompt_id"]
    responses = made.table("policy_responses")
    assert set(responses["policy"]) == ALL_POLICIES
    assert all(
        sorted(responses.filter(pl.col("policy") == policy)["prompt_id"]) == sorted(prompts) for policy in ALL_POLICIES
    )
    first = made.table("initial_responses", None)
    given = responses.filter(pl.col("policy") == "initial_responses")
    assert set(given["completion"]) <= set(first["completion"])
    assert set(given["request_id"]) <= set(first["request_id"])


def test_every_two_different_answers_are_judged_in_both_orders(made: Made) -> None:
    responses, judged = made.table("policy_responses"), made.table("policy_judgements")
    answers = responses.select("policy", "prompt_id", "completion")
    couples = answers.join(answers, on="prompt_id", suffix="_1").filter(
        pl.col("policy") < pl.col("policy_1"), pl.col("completion") != pl.col("completion_1")
    )
    assert judged.height == 2 * couples.height
    assert set(
        judged.group_by("policy_0", "policy_1", "prompt_id").agg(pl.col("order").sort())["order"].to_list()[0]
    ) == {"01", "10"}


def test_best_of_n_picks_a_candidate_of_its_prompt(made: Made) -> None:
    candidates, picked = made.table("best_of_n_candidates"), made.table("best_of_n")
    prompts = made.table("prompts", None).filter(pl.col("split") != "sft").height
    assert candidates.height == 3 * prompts
    assert picked.height == prompts
    assert (picked["reward"] >= picked["mean_reward"]).all()
    assert (picked["n"] == 3).all()
    found = picked.join(candidates, on=["prompt_id", "sample", "completion", "request_id"])
    assert found.height == prompts


def test_a_second_time_nothing_is_paid_for_or_trained(made: Made) -> None:
    again = made.metadata["again"]
    assert {again[asset]["trained_now"] for asset in CHECKPOINTS} == {"False"}
    paid = {asset: shown["ledger_misses"] for asset, shown in again.items() if "ledger_misses" in shown}
    assert set(paid.values()) == {"0"}
    assert len(paid) == 4


def test_the_teachers_answers_and_checkpoint_are_the_same_for_every_version(made: Made) -> None:
    keys = {made.table("teacher_sft_model", version)["checkpoint_key"].item() for version in ("v1", "v2")}
    assert len(keys) == 1
    sft = made.table("prompts", None).filter(pl.col("split") == "sft")
    assert set(made.table("teacher_responses", None)["prompt_id"]) == set(sft["prompt_id"])


def test_a_checkpoint_says_what_it_was_made_from_and_keeps_its_curves(made: Made) -> None:
    record = json.loads(made.table("rlaif_model")["record"].item())
    assert set(record["lake_snapshots"]) == {"constitution", "prompts", "reward_model", "sl_cai_model"}
    assert set(record["curves"]) == {"reward", "kl_per_token", "completion_tokens"}
    assert made.metadata["first"]["rlaif_model"]["reward_curve"].startswith("![reward](data:image/png")
    record = json.loads(made.table("dpo_model")["record"].item())
    assert record["label_policy"] == made.table("preference_pairs")["label_policy"][0]


def test_results_are_win_rates_between_all_policies(made: Made) -> None:
    results = made.table("policy_evaluation")
    assert results.height == 7 + 7 * 6
    overall = results.filter(pl.col("opponent") == "all")
    assert overall["mean_reward"].null_count() == 0
    assert overall["win_rate"].mean() == pytest.approx(0.5)
    between = results.filter(pl.col("opponent") != "all")
    mirrored = between.join(between, left_on=["policy", "opponent"], right_on=["opponent", "policy"])
    assert (mirrored["win_rate"] + mirrored["win_rate_right"]).to_list() == pytest.approx([1.0] * 42)
