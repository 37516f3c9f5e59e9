"""Where checkpoints lie: here, and where hosts share them.

A folder appears under its key only when it is complete, and its record is written last. A checkpoint that is only where
hosts share them is brought here when it is needed. It knows nothing of what a record says.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cai_dagster.disk import copy_file, full_disk_named, moved
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake.scratch import scratch_folder

RECORD = "record.json"

_log = logging.getLogger(__name__)


class CheckpointError(MendableError):
    """No checkpoint, or more than one, is what was asked for; the message names those there are."""


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


def place_of_row(home: Home, asset: str, row: Mapping[str, Any]) -> Path:
    """As `folder_of_row`, but nothing is brought: the place may be where hosts share it."""
    places = checkpoint_folders(home, asset, row["checkpoint_key"])
    return next((place for place in places if (place / RECORD).exists()), Path(row["path"]))


def checkpoint_folders(home: Home, asset: str, key: str) -> list[Path]:
    """Where the checkpoint may lie: here, and where hosts share it."""
    shared = shared_folder(home, asset, key)
    return [checkpoint_folder(home, asset, key), *([] if shared is None else [shared])]


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


def share(home: Home, asset: str, key: str) -> None:
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
