"""The reward model in the graph, with scripted model, trainers and scoring."""

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import assets.reward_model as _assets_reward_model  # noqa: F401
import cai_dagster.evaluation.reward_model
from cai_dagster.home import Home
from cai_dagster.lake.snapshots import Account
from cai_dagster.plan.cost import plan
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import CheckpointRecord
from resources.lake import open_lake
from tests import scripted_trainers
from tests.labelled_pairs import human_preferences
from tests.scripted_graph import (
    WITHOUT_TRAINING,
    ScriptedChatFormat,
    materialize,
    metadata,
    pretend_trained,
    scripted_models,
    write_prompts,
)

LABELS = ["response_pairs", "judgements", "preference_pairs"]
REWARD_MODEL = ["reward_model", "reward_model_evaluation"]


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trainers", "scoring"):
        monkeypatch.setitem(sys.modules, f"cai_dagster.training.{name}", scripted_trainers)
    monkeypatch.setattr(sys.modules["assets.reward_model"], "ChatFormat", ScriptedChatFormat)
    monkeypatch.setattr(cai_dagster.evaluation.reward_model, "ChatFormat", ScriptedChatFormat)
    monkeypatch.setattr(scripted_trainers, "STEP_SECONDS", 0)


@pytest.fixture
def config(home: Home, tmp_path: Path) -> dict[str, Any]:
    """A graph that has everything but its reward model; the config of that."""
    made = {
        "prompts": write_prompts(tmp_path / "p.jsonl", [f"question {number}" for number in range(30)]),
        "revision_rounds": {"rounds": 1},
        "sft_dataset": {"min_rows": 1},
        "reward_model": {"min_pairs": 1},
    }
    materialize(WITHOUT_TRAINING, made)
    pretend_trained(home, tmp_path / "checkpoint")
    materialize(LABELS, made)
    return made


def reward_model(home: Home, config: dict[str, Any], **settings: Any) -> tuple[CheckpointRecord, dict[str, Any]]:
    """Materialize both assets; the record of the checkpoint and the metadata of the training."""
    result = materialize(REWARD_MODEL, {**config, "reward_model": {"min_pairs": 1, **settings}})
    row = open_lake(home).snapshot("reward_model", "v1").frame().row(0, named=True)
    return CheckpointRecord.model_validate(json.loads(row["record"])), metadata(result, "reward_model")


def slices(home: Home) -> pl.DataFrame:
    return open_lake(home).snapshot("reward_model_evaluation", "v1").frame()


def commit_people(home: Home) -> None:
    """Ten human-labelled pairs, half of them to measure with."""
    lake = open_lake(home)
    staged = lake.stage("human_preferences")
    people = human_preferences(*[(3, 1)] * 10).with_row_index()
    split = pl.when(pl.col("index") < 5).then(pl.lit("preference")).otherwise(pl.lit("evaluation"))
    staged.add_frame(people.with_columns(split.alias("split")))
    staged.close()
    lake.commit(staged, Account("scripted", "scripted"))


def planned_to_be_there(home: Home, config: dict[str, Any]) -> bool | None:
    """What the plan says of the checkpoint, under the settings of `config`."""
    settings = active_settings()
    changed = {name: getattr(settings, name).model_copy(update=values) for name, values in config.items()}
    made = plan(home, settings.model_copy(update=changed), *scripted_models(), ["v1"], ["reward_model"])
    return made.checkpoints[0].exists


def test_human_labels_join_the_training_and_none_leave_the_checkpoint_as_it_was(
    home: Home, config: dict[str, Any]
) -> None:
    alone, shown = reward_model(home, config)
    assert shown["trained_now"]
    assert shown["human_pairs"] == 0
    assert "human_preferences" not in alone.lake_snapshots
    assert not [name for name in alone.settings if name in {"labels", "margin"} or name.startswith("human_")]
    names = slices(home)
    assert set(names["slice"]) == {"all", "principle"}
    (of_all,) = names.filter(pl.col("slice") == "all").to_dicts()
    assert sum(of_all["chosen_rewards"]) == sum(of_all["rejected_rewards"]) == of_all["pairs"]
    assert planned_to_be_there(home, config)

    materialize(["human_preferences"], {})
    empty, shown = reward_model(home, config)
    assert not shown["trained_now"]
    assert empty.checkpoint_key == alone.checkpoint_key

    commit_people(home)
    assert planned_to_be_there(home, config) is False
    mixed, shown = reward_model(home, config)
    assert shown["trained_now"]
    assert shown["human_pairs"] == 5
    assert mixed.row_counts["human_pairs"] == 5
    assert mixed.row_counts["trained"] == alone.row_counts["trained"] + 5
    assert mixed.settings["human_weight"] == 1.0
    assert "human_preferences" in mixed.lake_snapshots
    assert slices(home).filter(pl.col("slice") == "labelled_by")["pairs"].to_list() == [5]
    assert planned_to_be_there(home, config)


def test_a_principle_conditioned_model_is_trained_and_measured_on_pair_and_principle(
    home: Home, config: dict[str, Any]
) -> None:
    record, _ = reward_model(home, config, principle_conditioned=True, max_length=1000)
    assert record.settings["principle_conditioned"]
    assert {"judgements", "constitution"} <= set(record.lake_snapshots)
    assert "preference_pairs" not in record.lake_snapshots
    measured = slices(home)
    by_principle = measured.filter(pl.col("slice") == "principle")
    assert by_principle["pairs"].sum() == measured.filter(pl.col("slice") == "all")["pairs"].item()
    chosen = {"principle_conditioned": True, "min_pairs": 1, "max_length": 1000}
    assert planned_to_be_there(home, {**config, "reward_model": chosen})


def test_a_home_that_was_moved_uses_the_checkpoints_in_it(
    home: Home, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward_model(home, config)
    before = slices(home)
    moved = Home(home.root.rename(tmp_path / "moved").resolve())
    monkeypatch.setenv("CAI_HOME", str(moved.root))
    materialize(["reward_model_evaluation"], config)
    (noted,) = open_lake(moved).snapshot("reward_model", "v1").frame()["path"]
    assert not Path(noted).exists()
    assert slices(moved).equals(before)  # rewards of the weights, which the scripted scoring reads
