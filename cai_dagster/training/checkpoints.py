"""Checkpoints: where a trained model lies, what it was made from, and when it is complete.

`models/<asset>/<key>/` is an ordinary Hugging Face folder with a `record.json`. The key is the hash of everything that
decides the weights; a folder appears under its key only when it is complete, so one that is there is never trained
again. Where hosts share a place for checkpoints, a complete one is uploaded there, its record last, and one that is
only there is brought here when it is needed. It knows nothing of how a model is trained.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cai_dagster.disk import copy_file, full_disk_named, moved
from cai_dagster.errors import MendableError
from cai_dagster.hashing import content_hash
from cai_dagster.home import Home
from cai_dagster.lake.scratch import scratch_folder

CODE_VERSION = "1"  # of the trainers: change it when the same rows and settings give other weights
KEY_DIGITS = 32
RECORD = "record.json"

_log = logging.getLogger(__name__)

Curve = list[tuple[int, float]]


class CheckpointError(MendableError):
    """No checkpoint, or more than one, is what was asked for; the message names those there are."""


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
        decisive = [self.asset, self.base_model, self.rows, dict(self.settings), CODE_VERSION]
        return content_hash(decisive, KEY_DIGITS)


@dataclass(frozen=True)
class TrainingOutcome:
    """What a trainer says after it has written a model folder."""

    row_counts: dict[str, int]
    metrics: dict[str, float]
    loss_curve: Curve = field(default_factory=list[tuple[int, float]])
    curves: dict[str, Curve] = field(default_factory=dict[str, Curve])


def checkpoint_folder(home: Home, asset: str, key: str) -> Path:
    """Where the checkpoint lies once it is complete."""
    return home.models / asset / key


def find_checkpoint(home: Home, asset: str, name: str) -> Path:
    """The folder of a checkpoint: `name` is a folder with a model, a key, or the first digits of one key.

    Raises CheckpointError where there is no such checkpoint, or several.
    """
    if (Path(name) / "config.json").exists():
        return Path(name)
    complete = sorted(record.parent.name for record in records(home, asset))
    found = [key for key in complete if name and key.startswith(name)]
    if len(found) == 1:
        return brought(home, asset, found[0]) or checkpoint_folder(home, asset, found[0])
    named = ", ".join(found or complete) or "none yet"
    problem = "is the beginning of several keys" if found else "is neither a folder with a model nor a key"
    raise CheckpointError(f"{name!r} {problem}. Checkpoints of {asset} in {home.models}: {named}")


def folder_of_row(home: Home, asset: str, row: Mapping[str, Any]) -> Path:
    """Where the checkpoint of a row of `asset` lies now; brought from where hosts share it, if it is only there.

    A home may have been moved or copied: its own folder of that key goes before the `path` that was noted.
    """
    return brought(home, asset, row["checkpoint_key"]) or Path(row["path"])


def records(home: Home, asset: str) -> list[Path]:
    """The records of an asset's complete checkpoints: those here, and those that are only where hosts share them."""
    found = {record.parent.name: record for record in (home.models / asset).glob(f"*/{RECORD}")}
    if home.shared_checkpoints is not None:
        shared = (home.shared_checkpoints / asset).glob(f"*/{RECORD}")
        found = {record.parent.name: record for record in shared} | found
    return list(found.values())


def brought(home: Home, asset: str, key: str) -> Path | None:
    """The folder on this machine of a complete checkpoint, brought from where hosts share it; None: it is nowhere."""
    folder, shared = checkpoint_folder(home, asset, key), shared_folder(home, asset, key)
    if (folder / RECORD).exists():
        return folder
    if shared is None or not (shared / RECORD).exists():
        return None
    _log.info("bringing checkpoint %s of %s from %s", key, asset, shared)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_named(home.root), scratch_folder(home.staging) as scratch:
        _copy_files(shared, scratch / "model")
        if not (folder / RECORD).exists():  # else another process was faster
            shutil.rmtree(folder, ignore_errors=True)
            moved(scratch / "model", folder)
    return folder


def _share(home: Home, asset: str, key: str) -> None:
    """Upload a complete checkpoint, unless it is there: its record last, so that who finds that finds all."""
    shared = shared_folder(home, asset, key)
    if shared is not None and not (shared / RECORD).exists():
        _log.info("uploading checkpoint %s of %s to %s", key, asset, shared)
        _copy_files(checkpoint_folder(home, asset, key), shared)


def shared_folder(home: Home, asset: str, key: str) -> Path | None:
    """Where hosts share the checkpoint; None where they share none."""
    return home.shared_checkpoints and home.shared_checkpoints / asset / key


def _copy_files(source: Path, destination: Path) -> None:
    """All files of a folder, the record last; either may be on object storage."""
    files = [file for file in source.rglob("*") if file.is_file()]
    bytes_of = {file: file.stat().st_size for file in files}
    done = 0
    for file in sorted(files, key=lambda file: (file.name == RECORD, str(file))):
        place = destination.joinpath(*file.parts[len(source.parts) :])
        place.parent.mkdir(parents=True, exist_ok=True)
        copy_file(file, place)
        done += bytes_of[file]
        _log.info("%s: %.0f of %.0f MB", place.name, done / 1e6, sum(bytes_of.values()) / 1e6)


def read_record(folder: Path) -> CheckpointRecord:
    """The record of a complete checkpoint."""
    return CheckpointRecord.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))


def train_once(
    home: Home, ingredients: Ingredients, train: Callable[[Path], TrainingOutcome]
) -> tuple[CheckpointRecord, bool]:
    """The checkpoint's record, and whether it was trained now. `train` writes a model into the folder it is given."""
    folder = checkpoint_folder(home, ingredients.asset, ingredients.key)
    if brought(home, ingredients.asset, ingredients.key):
        _share(home, ingredients.asset, ingredients.key)  # the process that trained it may have been killed before
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
    _share(home, ingredients.asset, ingredients.key)
    return record, True
