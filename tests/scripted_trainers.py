"""Trainers and scoring without a model: files and numbers that follow from rows and settings alone, in several steps.

Stands in for `cai_dagster.training.trainers`, `policy_trainers` and `scoring`, so that a graph can train without torch.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from cai_dagster.hashing import content_hash, seed_of
from cai_dagster.models.chat_options import ChatOptions
from cai_dagster.models.messages import messages_from_json
from cai_dagster.training.checkpoints import TrainingOutcome
from cai_dagster.training.policy_optimization import RewardReading
from cai_dagster.training.settings import DpoModelSettings, RlaifModelSettings, TrainingSettings
from cai_dagster.training.token_files import TokenFile
from tests.fault_marks import mark
from tests.token_rows import rows_of

SCORE_BATCH = 8
SHARDS = 8
STEP_SECONDS = 0.1
SHARD_VALUES = 20_000


def train_supervised(
    base: Path,
    rows: TokenFile,
    held_out: TokenFile | None,
    settings: TrainingSettings,
    options: ChatOptions,
    report: Callable[[str], None],
    folder: Path,
) -> TrainingOutcome:
    """As `trainers.train_supervised`."""
    curve = _write(folder, rows_of(rows), settings)
    counts = {"trained": rows.count, "held_out": held_out.count if held_out else 0}
    return TrainingOutcome(counts, {"train_loss": curve[-1][1]}, curve)


def train_reward_model(
    base: Path,
    pairs: TokenFile,
    settings: TrainingSettings,
    options: ChatOptions,
    report: Callable[[str], None],
    folder: Path,
) -> TrainingOutcome:
    """As `trainers.train_reward_model`."""
    rows = [[pair["chosen_ids"], pair["rejected_ids"], pair["p_chosen"]] for pair in rows_of(pairs)]
    curve = _write(folder, rows, settings)
    return TrainingOutcome({"trained": pairs.count}, {"train_loss": curve[-1][1]}, curve)


def train_dpo(
    base: Path,
    pairs: TokenFile,
    settings: DpoModelSettings,
    options: ChatOptions,
    report: Callable[[str], None],
    folder: Path,
) -> TrainingOutcome:
    """As `policy_trainers.train_dpo`."""
    curve = _write(folder, rows_of(pairs), settings)
    return TrainingOutcome({"trained": pairs.count}, {"train_loss": curve[-1][1]}, curve, {"margin": curve})


def reward_of_checkpoint(checkpoint: Path, reading: RewardReading, options: ChatOptions) -> Any:
    """As `policy_trainers.reward_of_checkpoint`: the length of each completion."""
    return lambda prompts, completions: [float(len(text)) for text in completions]


def train_rlaif(
    base: Path,
    prompts: TokenFile,
    reward: Any,
    settings: RlaifModelSettings,
    options: ChatOptions,
    report: Callable[[str], None],
    folder: Path,
) -> TrainingOutcome:
    """As `policy_trainers.train_rlaif`."""
    rows = rows_of(prompts)
    assert reward([messages_from_json(rows[0]["messages"])], ["four"]) == [4]
    curve = _write(folder, [row["prompt"] for row in rows], settings)
    curves = {"reward": curve, "kl_per_token": curve, "completion_tokens": curve}
    return TrainingOutcome({"trained": prompts.count}, {"train_loss": curve[-1][1]}, curve, curves)


class Scorer:
    """As `scoring.Scorer`: a reward that depends on the weights and the row."""

    def __init__(self, checkpoint: Path) -> None:
        """Read the weights."""
        self._weights = [content_hash(file.read_bytes().hex()) for file in sorted(checkpoint.glob("*.safetensors"))]

    def score(self, rows: Sequence[Sequence[int]], *_: Any) -> list[float]:
        """The reward of each row."""
        mark("scoring")
        time.sleep(STEP_SECONDS)
        return [seed_of(0, *self._weights, content_hash(list(row))) / 2**62 for row in rows]


def _write(folder: Path, rows: list[Any], settings: TrainingSettings) -> list[tuple[int, float]]:
    """A shard a step: a training that is killed leaves some of them."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed_of(settings.seed, content_hash([rows, settings.model_dump()])))
    curve: list[tuple[int, float]] = []
    for shard in range(1, SHARDS + 1):
        mark("training")
        values = generator.standard_normal(SHARD_VALUES, dtype=np.float32)
        safetensors.numpy.save_file({"weight": values}, folder / f"model-{shard:05}-of-{SHARDS:05}.safetensors")
        curve.append((shard, float(values[0])))
        time.sleep(STEP_SECONDS)
    (folder / "config.json").write_text("{}")
    return curve
