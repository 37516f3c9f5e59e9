"""Weights are read from safetensors alone: a pickle can hold code, and is not even opened."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cai_dagster.models.chat_options import USUAL
from cai_dagster.models.messages import Message
from cai_dagster.settings import SETTINGS_FILE, load_settings
from cai_dagster.training.policy_trainers import _policy
from cai_dagster.training.reward_modelling import TokenPair
from cai_dagster.training.scoring import Scorer
from cai_dagster.training.supervised import TokenRow
from cai_dagster.training.trainers import train_reward_model, train_supervised
from tests.labelled_pairs import FORMAT
from tests.tiny_models import write_tiny_network
from tests.token_rows import on_disk

SETTINGS = load_settings(SETTINGS_FILE, "demo")
IDS = FORMAT.dialogue_ids((Message("user", "a"), Message("assistant", "b")))


class OpenedError(Exception):
    """The pickle was read."""


@pytest.fixture
def pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose weights are in a pickle, beside a safetensors file that is not the model's."""
    folder = write_tiny_network(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    torch.save({}, folder / "pytorch_model.bin")

    def opened(*_: object, **__: object) -> None:
        raise OpenedError

    monkeypatch.setattr(torch, "load", opened)
    return folder


READERS: dict[str, Callable[[Path], object]] = {
    "scoring": Scorer,
    "supervised training": lambda folder: train_supervised(
        folder, on_disk([TokenRow.of(IDS, 1)]), None, SETTINGS.sl_cai_model, USUAL, print, folder / "trained"
    ),
    "reward model training": lambda folder: train_reward_model(
        folder, on_disk([TokenPair(IDS, IDS, 1.0, 1, 1)]), SETTINGS.reward_model, USUAL, print, folder / "trained"
    ),
    "policy optimization": lambda folder: _policy(folder, SETTINGS.dpo_model, USUAL),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_pickled_weights_are_not_opened(pickled: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(OSError, match=r"model\.safetensors"):
        read(pickled)
