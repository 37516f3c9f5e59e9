"""DPO and RLOO on a tiny random model: what they minimise, which way the policy moves, and what they leave behind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cai_dagster.models.chat_options import USUAL
from cai_dagster.models.messages import Message, Messages, messages_to_json
from cai_dagster.settings import active_settings
from cai_dagster.training.policy_optimization import CompletionPair, TrainingPrompt
from cai_dagster.training.settings import DpoModelSettings, RlaifModelSettings
from cai_dagster.training.token_files import TokenFile
from tests.fault_workloads import make_tiny_model
from tests.token_rows import on_disk

PAIRS = [CompletionPair([5, 30 + number], [40, 41, 42], [50, 51], 0.6 + number / 40) for number in range(8)]
SMALL = {"batch_size": 4, "device_batch_size": 4, "max_length": 32, "warmup_share": 0.0}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights and a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model(str(folder))
    return folder


def dpo(**changes: Any) -> DpoModelSettings:
    return DpoModelSettings.model_validate(active_settings().dpo_model.model_dump() | SMALL | changes)


def rlaif(**changes: Any) -> RlaifModelSettings:
    return RlaifModelSettings.model_validate(active_settings().rlaif_model.model_dump() | SMALL | changes)


def log_probability(folder: Path, prompt: Sequence[int], completion: Sequence[int]) -> float:
    """The log π(completion | prompt) of the model in a folder, by plain transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
    return sum(float(logits[len(prompt) + place - 1, token]) for place, token in enumerate(completion))


def margins(trained: Path, base: Path, beta: float) -> "np.ndarray[Any, Any]":
    """The margin m of each of PAIRS."""

    def ratio(pair: CompletionPair, completion: Sequence[int]) -> float:
        return log_probability(trained, pair.prompt_ids, completion) - log_probability(
            base, pair.prompt_ids, completion
        )

    return beta * np.array([ratio(pair, pair.chosen_ids) - ratio(pair, pair.rejected_ids) for pair in PAIRS])


@pytest.mark.parametrize("loss", ["sigmoid", "conservative", "robust"])
def test_dpo_moves_the_policy_towards_what_is_preferred(tiny_model: Path, tmp_path: Path, loss: str) -> None:
    from cai_dagster.training.policy_trainers import train_dpo

    settings = dpo(loss=loss, learning_rate=1e-3, epochs=3, beta=0.1)
    outcome = train_dpo(tiny_model, on_disk(PAIRS), settings, USUAL, print, tmp_path / "model")
    moved = margins(tmp_path / "model", tiny_model, settings.beta)
    assert (moved > 0).all()
    assert outcome.loss_curve[-1][1] < outcome.loss_curve[0][1]
    assert outcome.curves["margin"][-1][1] > outcome.curves["margin"][0][1]
    assert outcome.curves["accuracy"][-1][1] == 1
    assert outcome.row_counts == {"trained": 8}


def test_conservative_dpo_stops_where_the_margin_says_what_the_label_says(tiny_model: Path, tmp_path: Path) -> None:
    from cai_dagster.training.policy_trainers import train_dpo

    unsure = [CompletionPair(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids, 0.6) for pair in PAIRS]
    settings = dpo(loss="conservative", learning_rate=3e-3, epochs=20, beta=0.1)
    train_dpo(tiny_model, on_disk(unsure), settings, USUAL, print, tmp_path / "model")
    said = 1 / (1 + np.exp(-margins(tmp_path / "model", tiny_model, settings.beta)))
    assert said == pytest.approx(np.full(8, 0.6), abs=0.03)


def test_the_conservative_loss_is_the_cross_entropy_with_the_label(tiny_model: Path, tmp_path: Path) -> None:
    """One step with all pairs, then a second that does not move: its loss is that of the margins after the first."""
    from cai_dagster.training.policy_trainers import train_dpo

    settings = dpo(loss="conservative", batch_size=8, device_batch_size=8, epochs=2, learning_rate=1e-3, beta=0.5)
    outcome = train_dpo(tiny_model, on_disk(PAIRS), settings, USUAL, print, tmp_path / "model")
    once = settings.model_copy(update={"epochs": 1.0, "learning_rate": 1e-3})
    train_dpo(tiny_model, on_disk(PAIRS), once, USUAL, print, tmp_path / "once")
    margin = margins(tmp_path / "once", tiny_model, 0.5)
    label = np.array([pair.p_chosen for pair in PAIRS])
    expected = (label * np.logaddexp(0, -margin) + (1 - label) * np.logaddexp(0, margin)).mean()
    assert outcome.loss_curve[1][1] == pytest.approx(expected, abs=2e-3)


def test_dpo_with_lora_leaves_an_ordinary_folder(tiny_model: Path, tmp_path: Path) -> None:
    import safetensors.torch

    from cai_dagster.training.policy_trainers import train_dpo

    settings = dpo(loss="conservative", lora_rank=4, learning_rate=1e-2, epochs=5)
    train_dpo(tiny_model, on_disk(PAIRS), settings, USUAL, print, tmp_path / "model")
    assert (margins(tmp_path / "model", tiny_model, settings.beta) > 0).all()
    assert not [key for key in safetensors.torch.load_file(tmp_path / "model" / "model.safetensors") if "lora" in key]


ASKED: list[Messages] = [(Message("user", text),) for text in ("ab", "cde", "f", "gh")]


def prompts(asked: Sequence[Messages] = ASKED) -> TokenFile:
    """A byte a token, as the tiny model's tokenizer has it."""
    return on_disk(TrainingPrompt([*one[0].content.encode()], messages_to_json(one)) for one in asked)


def share_of_small_letters(prompts: Sequence[Messages], completions: Sequence[str]) -> list[float]:
    """The toy reward: how much of a completion is below the middle of the tokenizer's alphabet."""
    return [sum(character < "P" for character in text) / max(1, len(text)) for text in completions]


def test_rloo_raises_the_reward_and_keeps_its_curves(tiny_model: Path, tmp_path: Path) -> None:
    from cai_dagster.training.policy_trainers import train_rlaif

    asked: list[Messages] = []

    def reward(prompts: Sequence[Messages], completions: Sequence[str]) -> list[float]:
        asked.extend(prompts)
        return share_of_small_letters(prompts, completions)

    settings = rlaif(learning_rate=1e-2, epochs=40, completions_per_prompt=8, max_tokens=6, kl_coefficient=0.001)
    outcome = train_rlaif(tiny_model, prompts(), reward, settings, USUAL, print, tmp_path / "model")
    rewards = [value for _, value in outcome.curves["reward"]]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.2
    divergence = [value for _, value in outcome.curves["kl_per_token"]]
    assert divergence[-1] > max(0.01, divergence[0])
    assert all(0 < length <= 6 for _, length in outcome.curves["completion_tokens"])
    assert outcome.row_counts == {"trained": 4, "steps": 40}
    assert set(asked) == set(ASKED)
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_stronger_kl_coefficient_keeps_the_policy_closer(tiny_model: Path, tmp_path: Path) -> None:
    from cai_dagster.training.policy_trainers import train_rlaif

    divergence = [
        train_rlaif(
            tiny_model,
            prompts(),
            share_of_small_letters,
            rlaif(learning_rate=1e-2, epochs=40, completions_per_prompt=8, max_tokens=6, kl_coefficient=beta),
            USUAL,
            print,
            tmp_path / str(beta),
        ).metrics["kl_per_token"]
        for beta in (0.001, 10.0)
    ]
    assert divergence[1] < divergence[0] / 2


def test_fewer_prompts_than_a_batch_are_one_step(tiny_model: Path, tmp_path: Path) -> None:
    from cai_dagster.training.policy_trainers import train_rlaif

    settings = rlaif(batch_size=64, completions_per_prompt=2, max_tokens=4)
    outcome = train_rlaif(
        tiny_model, prompts(ASKED[:3]), share_of_small_letters, settings, USUAL, print, tmp_path / "model"
    )
    assert outcome.row_counts["steps"] == 1
