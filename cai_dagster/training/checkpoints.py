"""Checkpoints: what it was made from, and when it is complete.

`models/<asset>/<key>/` is an ordinary Hugging Face folder with a `record.json`. The key is the hash of everything that
decides the weights; a folder appears under its key only when it is complete, so one that is there is never trained
again. `checkpoint_folders` finds them. It knows nothing of how a model is trained.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cai_dagster.disk import full_disk_named, moved
from cai_dagster.hashing import content_hash
from cai_dagster.home import Home
from cai_dagster.lake.scratch import scratch_folder
from cai_dagster.training.checkpoint_folders import RECORD, brought, checkpoint_folder, share

CODE_VERSION = "1"  # of the trainers: change it when the same rows and settings give other weights
KEY_DIGITS = 32

Curve = list[tuple[int, float]]


class CheckpointRecord(BaseModel):
    """`record.json`: what a checkpoint was made from and how it did.

    `curves` are what else was measured while training, by name: optimizer step and value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    asset: str
    checkpoint_key: str
    constitution_version: str
    base_model: str
    label_policy: str | None
    settings: dict[str, Any]
    lake_snapshots: dict[str, int]
    row_counts: dict[str, int]
    metrics: dict[str, float]
    loss_curve: Curve
    curves: dict[str, Curve] = Field(default_factory=dict[str, Curve])
    seconds: float
    code_version: str
    created_at: datetime


HOW_FAST = ("processes", "sharding", "generation_memory")  # decide how fast weights come, not which


@dataclass(frozen=True)
class Ingredients:
    """Everything a checkpoint is made from. `rows` is the hash of the training rows in their order."""

    asset: str
    constitution_version: str
    base_model: str
    rows: str
    settings: Mapping[str, Any]
    lake_snapshots: Mapping[str, int]
    label_policy: str | None = None

    @property
    def key(self) -> str:
        """Hash of what decides the weights; neither version names nor snapshot numbers do."""
        settings = {name: value for name, value in self.settings.items() if name not in HOW_FAST}
        decisive = [self.asset, self.base_model, self.rows, settings, CODE_VERSION]
        return content_hash(decisive, KEY_DIGITS)


@dataclass(frozen=True)
class TrainingOutcome:
    """What a trainer says after it has written a model folder."""

    row_counts: dict[str, int]
    metrics: dict[str, float]
    loss_curve: Curve = field(default_factory=list[tuple[int, float]])
    curves: dict[str, Curve] = field(default_factory=dict[str, Curve])


def read_record(folder: Path) -> CheckpointRecord:
    """The record of a complete checkpoint."""
    return CheckpointRecord.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))


def train_once(
    home: Home, ingredients: Ingredients, train: Callable[[Path], TrainingOutcome]
) -> tuple[CheckpointRecord, bool]:
    """The checkpoint's record, and whether it was trained now. `train` writes a model into the folder it is given."""
    folder = checkpoint_folder(home, ingredients.asset, ingredients.key)
    if brought(home, ingredients.asset, ingredients.key):
        share(home, ingredients.asset, ingredients.key)  # the process that trained it may have been killed before
        return read_record(folder), False
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = datetime.now(UTC)
    with full_disk_named(home.root), scratch_folder(home.staging) as scratch:
        trained = scratch / "model"
        outcome = train(trained)
        record = CheckpointRecord(
            asset=ingredients.asset,
            checkpoint_key=ingredients.key,
            constitution_version=ingredients.constitution_version,
            base_model=ingredients.base_model,
            label_policy=ingredients.label_policy,
            settings=dict(ingredients.settings),
            lake_snapshots=dict(ingredients.lake_snapshots),
            row_counts=outcome.row_counts,
            metrics=outcome.metrics,
            loss_curve=outcome.loss_curve,
            curves=outcome.curves,
            seconds=(datetime.now(UTC) - started).total_seconds(),
            code_version=CODE_VERSION,
            created_at=started,
        )
        (trained / RECORD).write_text(record.model_dump_json(indent=2), encoding="utf-8")
        if (folder / RECORD).exists():  # another process was faster
            return read_record(folder), False
        shutil.rmtree(folder, ignore_errors=True)  # what is there has no record: it was never complete
        moved(trained, folder)
    share(home, ingredients.asset, ingredients.key)
    return record, True
