"""How a checkpoint is made and handed over: the mechanism of all model assets, written once."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.common.stage import Metadata, stage_rows
from cai_dagster.home import Home
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.models.weights import Weights, checkpoint_weights
from cai_dagster.training.checkpoint_folders import checkpoint_folder, folder_of_row, shared_folder
from cai_dagster.training.checkpoints import CheckpointRecord, Curve, Ingredients, TrainingOutcome, train_once
from resources.accelerator import ACCELERATOR
from resources.lake import LakeResource

if TYPE_CHECKING:
    from cai_dagster.lake.staging import StagedRows


def stage_checkpoint(
    context: dg.AssetExecutionContext,
    lake: LakeResource,
    staged: "StagedRows",
    ingredients: Ingredients,
    rows: int,
    train: Callable[[Path], TrainingOutcome],
    more: Metadata | None = None,
) -> dg.MaterializeResult:
    """Train, or find the checkpoint that was trained on exactly this already; one row for the asset's table.

    `staged` is where the row goes: of `new_rows` or `work_of`, which refuse tables that do not fit together. `more` is
    added to the metadata.
    """
    home = Home.from_environment()

    def train_alone(folder: Path) -> TrainingOutcome:
        with ACCELERATOR.reserved(context.log.info):
            return train(folder)

    record, trained_now = train_once(home, ingredients, train_alone)
    folder = checkpoint_folder(home, ingredients.asset, ingredients.key)
    if trained_now:  # their hash is taken at once: from now on damage to them can be told
        checkpoint_weights(ingredients.asset, ingredients.key, folder, home)
    context.log.info(f"{folder}: {'trained' if trained_now else 'found complete, not trained again'}")
    staged.add(
        [
            {
                "checkpoint_key": record.checkpoint_key,
                "path": str(shared_folder(home, ingredients.asset, ingredients.key) or folder),
                "base_model": record.base_model,
                "rows": rows,
                "record": record.model_dump_json(),
            }
        ]
    )
    about = {"checkpoint": dg.MetadataValue.path(folder), "trained_now": trained_now}
    return stage_rows(context, lake, staged, {**about, **_training_metadata(record), **(more or {})})


def _training_metadata(record: CheckpointRecord) -> dict[str, Any]:
    return {
        "training_seconds": record.seconds,
        "loss_curve": _curve_plot(record.loss_curve, "training loss"),
        **{f"{name}_curve": _curve_plot(curve, name.replace("_", " ")) for name, curve in record.curves.items()},
        **record.metrics,
    }


def require(asset: str, found: int, setting: str, minimum: int, what: str) -> None:
    """Fail the asset, for good, where there are fewer rows to train on than its setting asks for."""
    if found < minimum:
        raise dg.Failure(f"{asset}: {setting} asks for {minimum}, and there are {found} {what}.", allow_retries=False)


def current_checkpoint(table: TableSnapshot) -> Weights:
    """The weights of the checkpoint that is in use for a version."""
    row = checkpoint_in_use(table)
    return checkpoint_weights(table.table, row["checkpoint_key"], Path(row["path"]), Home.from_environment())


def checkpoint_in_use(table: TableSnapshot) -> dict[str, Any]:
    """The row of the checkpoint that is in use for a version; `path` is where it lies now."""
    row = table.frame().row(0, named=True)
    return {**row, "path": str(folder_of_row(Home.from_environment(), table.table, row))}


def _curve_plot(curve: Curve, measured: str) -> dg.MarkdownMetadataValue:
    from cai_dagster.pages.plots import line_plot

    return dg.MetadataValue.md(line_plot(curve, "optimizer step", measured))
