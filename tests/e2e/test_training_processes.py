"""Training in two processes (gloo): the weights of one process, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cai_dagster.constitution.constitution import Constitution, Principle
from cai_dagster.models.chat_options import USUAL
from cai_dagster.models.messages import Message, messages_to_json
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import TrainingOutcome
from cai_dagster.training.launch import (
    RewardModelTraining,
    RlaifTraining,
    SupervisedTraining,
    Training,
    TrainingProcessError,
    read_job,
    train,
    write_job,
)
from cai_dagster.training.policy_optimization import RewardReading, TrainingPrompt
from cai_dagster.training.reward_modelling import TokenPair
from cai_dagster.training.settings import RlaifModelSettings, TrainingSettings
from cai_dagster.training.supervised import TokenRow
from tests.tiny_models import write_tiny_network
from tests.token_rows import on_disk

ROWS = [TokenRow.of([5 + number, 6, 7, 8 + number % 3, 9, 10], 3) for number in range(16)]
PAIRS = [TokenPair([5 + number, 6, 7], [5 + number, 7, 8], 0.9 - number / 40, 3, 3) for number in range(16)]
WORKERS_ALONE = """
import sys
from pathlib import Path
from cai_dagster.training.launch import read_job, train
from tests.token_rows import on_disk
train(read_job(Path(sys.argv[1])), lambda line: print(line, flush=True))
"""


def settings(**changes: Any) -> TrainingSettings:
    values = active_settings().sl_cai_model.model_dump() | {"batch_size": 8, "device_batch_size": 2, "max_length": 32}
    return TrainingSettings.model_validate(values | {"epochs": 4, "learning_rate": 1e-3, **changes})


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def trained(training: Training, lines: list[str] | None = None) -> TrainingOutcome:
    training.folder.mkdir(parents=True)
    return train(training, (lines if lines is not None else []).append)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_what_one_does(tiny_model: Path, tmp_path: Path, sharding: str) -> None:
    lines: list[str] = []
    one = trained(
        SupervisedTraining(tiny_model, on_disk(ROWS), on_disk(ROWS[:4]), settings(), USUAL, tmp_path / "1" / "model")
    )
    together = settings(processes=2, sharding=sharding)
    two = trained(
        SupervisedTraining(tiny_model, on_disk(ROWS), on_disk(ROWS[:4]), together, USUAL, tmp_path / "2" / "model"),
        lines,
    )
    assert two.row_counts == one.row_counts
    assert [step for step, _ in two.loss_curve] == [step for step, _ in one.loss_curve]
    assert [loss for _, loss in two.loss_curve] == pytest.approx([loss for _, loss in one.loss_curve], rel=0.02)
    assert two.metrics["held_out_loss_after"] == pytest.approx(one.metrics["held_out_loss_after"], rel=0.02)
    assert len(lines) == len(two.loss_curve)
    assert lines[0].startswith("step 1 of 8, loss ")
    before, first, second = (weights_of(folder) for folder in (tiny_model, *(tmp_path / n / "model" for n in "12")))
    assert first.keys() == second.keys()
    learned = sum(float((first[name] - before[name]).abs().sum()) for name in first)
    apart = sum(float((first[name] - second[name]).abs().sum()) for name in first)
    assert apart < learned / 3  # what bfloat16 makes of the same batches, through Adam
    assert sorted(file.name for file in (tmp_path / "2").iterdir()) == ["model", "trainer"]


def test_a_reward_model_and_adapters_train_in_two_processes_too(tiny_model: Path, tmp_path: Path) -> None:
    together = settings(processes=2, lora_rank=4)
    outcome = trained(RewardModelTraining(tiny_model, on_disk(PAIRS), together, USUAL, tmp_path / "2" / "model"))
    assert outcome.row_counts == {"trained": 16}
    assert not any("lora" in name for name in weights_of(tmp_path / "2" / "model"))


def test_two_processes_with_a_vllm_each_optimize_a_policy(tmp_path: Path) -> None:
    from transformers import LlamaForSequenceClassification

    policy = write_tiny_network(tmp_path / "policy", hidden_size=64)
    judge = write_tiny_network(tmp_path / "judge", LlamaForSequenceClassification, hidden_size=64, num_labels=1)
    asked = {text: messages_to_json((Message("user", text),)) for text in ("ab", "cde", "f", "gh")}
    prompts = on_disk(TrainingPrompt([*text.encode()], messages) for text, messages in asked.items())
    values = active_settings().rlaif_model.model_dump() | {"batch_size": 4, "max_length": 64, "warmup_share": 0.0}
    values |= {"learning_rate": 1e-2, "epochs": 20, "completions_per_prompt": 8, "max_tokens": 8, "min_prompts": 4}
    chosen = RlaifModelSettings.model_validate(values | {"generation": "vllm", "processes": 2, "kl_coefficient": 0.001})
    reading = RewardReading(64, None)
    outcome = trained(RlaifTraining(policy, prompts, judge, reading, chosen, USUAL, tmp_path / "2" / "model"))
    rewards = [value for _, value in outcome.curves["reward"]]
    # Of what vLLM draws: it rises only where vLLM is given the weights of each step.
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.09
    assert outcome.row_counts == {"trained": 4, "steps": 20}
    assert (tmp_path / "2" / "model" / "model.safetensors").exists()
    assert not [one for one in psutil.process_iter() if "cai_dagster.training.worker" in _command_of(one)]


def test_a_job_is_read_as_it_was_written(tiny_model: Path, tmp_path: Path) -> None:
    for training in (
        SupervisedTraining(tiny_model, on_disk(ROWS), None, settings(processes=2), USUAL, tmp_path),
        RewardModelTraining(tiny_model, on_disk(PAIRS), settings(sharding="full"), USUAL, tmp_path),
        RlaifTraining(
            tiny_model,
            on_disk([TrainingPrompt([1, 2], messages_to_json((Message("user", "Why?"),)))]),
            tmp_path,
            RewardReading(64, Constitution("v1", (Principle("kind", "c", "r", "which?", 2.0, ("tone",)),))),
            active_settings().rlaif_model,
            USUAL,
            tmp_path,
        ),
    ):
        write_job(tmp_path, training)
        assert read_job(tmp_path) == training


def test_a_process_that_fails_ends_the_training_with_its_words(tmp_path: Path) -> None:
    training = SupervisedTraining(
        tmp_path / "nothing", on_disk(ROWS), None, settings(processes=2), USUAL, tmp_path / "m" / "model"
    )
    with pytest.raises(TrainingProcessError, match="nothing"):
        trained(training)


def test_the_processes_end_with_the_one_that_started_them(tiny_model: Path, tmp_path: Path) -> None:
    endless = settings(processes=2, epochs=100, batch_size=2, device_batch_size=1)
    folder = tmp_path / "m" / "model"
    folder.mkdir(parents=True)
    write_job(tmp_path, SupervisedTraining(tiny_model, on_disk(ROWS * 20), None, endless, USUAL, folder))
    command = [sys.executable, "-c", WORKERS_ALONE, str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline().startswith("step ")
    parts = psutil.Process(parent.pid).children(recursive=True)
    assert len(parts) >= 3
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(_is_alive(part) for part in parts):
        time.sleep(0.05)
    assert not any(_is_alive(part) for part in parts)


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
