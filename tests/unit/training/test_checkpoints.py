"""Checkpoints: trained once, complete or not there, and known by what decides their weights."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cai_dagster.home import Home
from cai_dagster.training import checkpoints
from cai_dagster.training.checkpoint_folders import checkpoint_folder
from cai_dagster.training.checkpoints import (
    CODE_VERSION,
    CheckpointRecord,
    Ingredients,
    TrainingOutcome,
    read_record,
    train_once,
)

INGREDIENTS = Ingredients(
    asset="sl_cai_model",
    constitution_version="v1",
    base_model="base@0123",
    rows="0" * 64,
    settings={"learning_rate": 1e-5, "epochs": 1.0, "seed": 0},
    lake_snapshots={"sft_dataset": 4},
)
OUTCOME = TrainingOutcome({"train": 12}, {"loss": 1.25}, [(1, 2.5), (2, 1.25)], {"reward": [(1, 0.5)]})


def trainer(log: list[Path]) -> Callable[[Path], TrainingOutcome]:
    def train(folder: Path) -> TrainingOutcome:
        log.append(folder)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights %d" % len(log))
        return OUTCOME

    return train


def place(home: Home, ingredients: Ingredients = INGREDIENTS) -> Path:
    return checkpoint_folder(home, ingredients.asset, ingredients.key)


def test_a_checkpoint_is_trained_once_and_found_the_second_time(home: Home) -> None:
    log: list[Path] = []
    first, trained_first = train_once(home, INGREDIENTS, trainer(log))
    second, trained_second = train_once(home, INGREDIENTS, trainer(log))
    assert (trained_first, trained_second, len(log)) == (True, False, 1)
    assert first == second
    assert (place(home) / "model.safetensors").read_bytes() == b"weights 1"


def test_a_checkpoint_lies_under_its_asset_and_key(home: Home) -> None:
    record, _ = train_once(home, INGREDIENTS, trainer([]))
    assert place(home) == home.models / "sl_cai_model" / record.checkpoint_key
    assert sorted(file.name for file in place(home).iterdir()) == ["model.safetensors", "record.json"]
    assert list((home.models / "sl_cai_model").iterdir()) == [place(home)]


def test_the_folder_appears_under_its_key_only_when_it_is_complete(home: Home) -> None:
    def train(folder: Path) -> TrainingOutcome:
        assert not place(home).exists()
        assert folder.is_relative_to(home.root)  # the same file system: the move is a rename
        return trainer([])(folder)

    train_once(home, INGREDIENTS, train)
    assert (place(home) / "record.json").exists()


def test_a_folder_without_a_record_is_replaced_whole(home: Home) -> None:
    place(home).mkdir(parents=True)
    (place(home) / "half.safetensors").write_bytes(b"half")
    _, trained = train_once(home, INGREDIENTS, trainer([]))
    assert trained
    assert sorted(file.name for file in place(home).iterdir()) == ["model.safetensors", "record.json"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_trainer_that_fails_leaves_nothing(home: Home, error: BaseException) -> None:
    def train(folder: Path) -> TrainingOutcome:
        trainer([])(folder)
        raise error

    with pytest.raises(type(error)):
        train_once(home, INGREDIENTS, train)
    assert list((home.models / "sl_cai_model").iterdir()) == []
    assert list(home.root.rglob("*.safetensors")) == []
    assert train_once(home, INGREDIENTS, trainer([]))[1]


@pytest.mark.parametrize(
    "changed",
    [
        {"asset": "reward_model"},
        {"base_model": "base@4567"},
        {"rows": "1" * 64},
        {"settings": {**INGREDIENTS.settings, "seed": 1}},
        {"settings": {**INGREDIENTS.settings, "lora_rank": 8}},
        {"settings": {}},
    ],
)
def test_what_decides_the_weights_decides_the_key(changed: dict[str, Any]) -> None:
    assert replace(INGREDIENTS, **changed).key != INGREDIENTS.key


def test_another_version_of_the_trainers_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = INGREDIENTS.key
    monkeypatch.setattr(checkpoints, "CODE_VERSION", CODE_VERSION + "'")
    assert before != INGREDIENTS.key


@pytest.mark.parametrize(
    "changed",
    [
        {"constitution_version": "v2"},
        {"lake_snapshots": {"sft_dataset": 5, "prompts": 1}},
        {"settings": dict(reversed(list(INGREDIENTS.settings.items())))},
    ],
)
def test_names_snapshots_and_the_order_of_settings_decide_no_key(changed: dict[str, Any]) -> None:
    assert replace(INGREDIENTS, **changed).key == INGREDIENTS.key


def test_a_version_with_the_same_rows_finds_the_checkpoint_of_the_other(home: Home) -> None:
    train_once(home, INGREDIENTS, trainer([]))
    _, trained = train_once(home, replace(INGREDIENTS, constitution_version="v2"), trainer([]))
    assert not trained


def test_the_record_says_what_the_checkpoint_was_made_from_and_how_it_did(home: Home) -> None:
    before = datetime.now(UTC)
    ingredients = replace(INGREDIENTS, label_policy="soft")
    record, _ = train_once(home, ingredients, trainer([]))
    assert record.model_dump(exclude={"seconds", "created_at"}) == {
        "asset": "sl_cai_model",
        "checkpoint_key": ingredients.key,
        "constitution_version": "v1",
        "base_model": "base@0123",
        "label_policy": "soft",
        "settings": {"learning_rate": 1e-5, "epochs": 1.0, "seed": 0},
        "lake_snapshots": {"sft_dataset": 4},
        "row_counts": {"train": 12},
        "metrics": {"loss": 1.25},
        "loss_curve": [(1, 2.5), (2, 1.25)],
        "curves": {"reward": [(1, 0.5)]},
        "code_version": CODE_VERSION,
    }
    assert record.seconds >= 0
    assert before <= record.created_at <= datetime.now(UTC)


def test_the_record_is_read_back_as_it_was_written(home: Home) -> None:
    record, _ = train_once(home, INGREDIENTS, trainer([]))
    assert read_record(place(home)) == record
    assert CheckpointRecord.model_validate_json(record.model_dump_json()) == record


def test_a_record_from_before_there_were_other_curves_is_still_read(home: Home) -> None:
    record, _ = train_once(home, INGREDIENTS, trainer([]))
    older = record.model_dump(mode="json", exclude={"curves"})
    assert CheckpointRecord.model_validate(older) == record.model_copy(update={"curves": {}})
