"""Whether the checkpoints of a home are whole."""

# pyright: reportMissingTypeStubs=false

from pathlib import Path

from pydantic import ValidationError

from cai_dagster.home import Home
from cai_dagster.models.weights import WeightsError, fresh_digest, is_whole, known_digest, lacking
from cai_dagster.training.checkpoints import read_record
from cai_dagster.upkeep.catalog import command_to_materialize, snapshots_of
from cai_dagster.upkeep.findings import Finding, good, problem, quoted, warning


def examine_checkpoints(home: Home, full: bool) -> list[Finding]:
    """Every checkpoint in a home: its record, its weights and the snapshots it was trained on."""
    snapshots = snapshots_of(home)
    findings: list[Finding] = []
    complete = 0
    for folder in _checkpoint_folders(home):
        about = _checkpoint(home, folder, snapshots, full)
        complete += not about
        findings += about
    return findings or [good("checkpoints", f"{complete:,} complete{_compared(home, full)}")]


def _compared(home: Home, full: bool) -> str:
    """How many have no hash to be compared with: they came from another home."""
    if not full:
        return ""
    try:
        unknown = [folder for folder in _checkpoint_folders(home) if known_digest(folder, home) is None]
    except WeightsError:
        return ""
    return f"; no hash was ever taken of {len(unknown):,} of them, and they were not compared" if unknown else ""


def _checkpoint_folders(home: Home) -> list[Path]:
    return sorted(folder for folder in home.models.glob("*/*/") if folder.parent.name != "offline")


def _checkpoint(home: Home, folder: Path, snapshots: set[int] | None, full: bool) -> list[Finding]:
    asset, remove = folder.parent.name, f"rm -r {quoted(folder)}"
    if not (folder / "record.json").exists():
        text = f"{folder} has no record.json: its training was never finished, or the file was removed"
        return [warning("checkpoints", text, f"{remove} (training {asset} again replaces it as well)")]
    try:
        record = read_record(folder)
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        text = f"{folder}/record.json cannot be read: {str(error).splitlines()[0]}"
        return [problem("checkpoints", text, f"{remove}; then materialize {asset} of its version again")]
    again = f"{remove} && {command_to_materialize(home, asset, record.constitution_version)}"
    if damage := _damage(home, folder, full):
        return [problem("checkpoints", f"{folder} {damage}", again)]
    gone = (
        {}
        if snapshots is None
        else {table: snapshot for table, snapshot in record.lake_snapshots.items() if snapshot not in snapshots}
    )
    if gone:
        named = ", ".join(f"{table} at {snapshot}" for table, snapshot in sorted(gone.items()))
        text = f"{folder} was trained on snapshots that are no longer there: {named}"
        return [warning("checkpoints", text, f"nothing brings them back; to train on the rows there are: {again}")]
    return []


def _damage(home: Home, folder: Path, full: bool) -> str | None:
    """What is wrong with the weights of a checkpoint; their hash is compared where it was ever taken, and `full`."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        return "has no weights"
    if missing := lacking(folder):
        return f"has no {', no '.join(missing)}"
    if cut := [file.name for file in weights if not is_whole(file)]:
        return f"has weights that are not as long as their headers say: {', '.join(cut)}"
    try:
        known = known_digest(folder, home) if full else None
    except WeightsError:
        return None  # about all models, and said there
    if known is not None and known != fresh_digest(folder):
        return "has other files than those whose hash was taken, yet their times say so: they are damaged"
    return None
