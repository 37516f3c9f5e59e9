"""The trainers on a tiny random model with the real tokenizer: what they minimise, and what they leave behind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cai_dagster.models.chat_options import USUAL
from cai_dagster.settings import active_settings
from cai_dagster.training.reward_modelling import TokenPair, soft_label_loss
from cai_dagster.training.settings import TrainingSettings
from cai_dagster.training.supervised import TokenRow
from tests.token_rows import on_disk

PAIRS = [TokenPair([1, 30 + number, 40, 41], [1, 30 + number, 50], 0.55 + number / 20, 10, 5) for number in range(8)]
ROWS = [TokenRow.of([1, 60 + number, 70, 71, 2], 2) for number in range(8)]


def settings(**changes: Any) -> TrainingSettings:
    values = active_settings().sl_cai_model.model_dump() | {"batch_size": 4, "device_batch_size": 4, "max_length": 32}
    return TrainingSettings.model_validate(values | changes)


def test_the_reward_models_loss_is_bradley_terry_with_soft_labels(tiny_model: Path, tmp_path: Path) -> None:
    from cai_dagster.training.scoring import Scorer
    from cai_dagster.training.trainers import train_reward_model

    unchanging = settings(learning_rate=1e-12)
    outcome = train_reward_model(tiny_model, on_disk(PAIRS), unchanging, USUAL, print, tmp_path / "model")
    rows = [pair.chosen_ids for pair in PAIRS] + [pair.rejected_ids for pair in PAIRS]
    rewards = np.array(Scorer(tmp_path / "model").score(rows, 3, print)).reshape(2, -1)
    expected = soft_label_loss(rewards[0] - rewards[1], np.array([pair.p_chosen for pair in PAIRS])).mean()
    assert outcome.metrics["train_loss"] == pytest.approx(expected, abs=2e-3)


def test_a_reward_model_learns_which_text_is_preferred(tiny_model: Path, tmp_path: Path) -> None:
    from cai_dagster.training.scoring import Scorer
    from cai_dagster.training.trainers import train_reward_model

    train_reward_model(
        tiny_model, on_disk(PAIRS), settings(learning_rate=1e-2, epochs=20), USUAL, print, tmp_path / "model"
    )
    rows = [pair.chosen_ids for pair in PAIRS] + [pair.rejected_ids for pair in PAIRS]
    rewards = np.array(Scorer(tmp_path / "model").score(rows, 16, print)).reshape(2, -1)
    assert (rewards[0] > rewards[1]).all()


def test_only_the_completion_is_learned(tiny_model: Path, tmp_path: Path) -> None:
    from cai_dagster.training.trainers import train_supervised

    outcome = train_supervised(
        tiny_model,
        on_disk(ROWS),
        on_disk(ROWS),
        settings(learning_rate=1e-2, epochs=20),
        USUAL,
        print,
        tmp_path / "model",
    )
    assert outcome.metrics["held_out_loss_after"] < outcome.metrics["held_out_loss_before"] / 2
    assert [step for step, _ in outcome.loss_curve] == sorted({step for step, _ in outcome.loss_curve})
    one_token = [TokenRow.of(row.input_ids, 4) for row in ROWS]
    everything = [TokenRow.of(row.input_ids, 0) for row in ROWS]
    before = [
        train_supervised(
            tiny_model, on_disk(ROWS), on_disk(rows), settings(), USUAL, print, tmp_path / str(number)
        ).metrics["held_out_loss_before"]
        for number, rows in enumerate((one_token, everything))
    ]
    assert before[0] != pytest.approx(before[1], abs=1e-6)


@pytest.mark.parametrize("kind", ["supervised", "reward"])
def test_lora_adapters_are_merged_into_an_ordinary_folder(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    import safetensors.torch

    from cai_dagster.training.trainers import train_reward_model, train_supervised

    lora, folder = settings(lora_rank=4, learning_rate=1e-2), tmp_path / "model"
    if kind == "supervised":
        train_supervised(tiny_model, on_disk(ROWS), None, lora, USUAL, print, folder)
    else:
        train_reward_model(tiny_model, on_disk(PAIRS), lora, USUAL, print, folder)
    assert not list(folder.glob("adapter*"))
    base = safetensors.torch.load_file(tiny_model / "model.safetensors")
    merged = safetensors.torch.load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert merged[name].shape == base[name].shape
    assert not np.allclose(merged[name].numpy(), base[name].numpy())
    assert not [key for key in merged if "lora" in key]
