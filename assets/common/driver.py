"""`python -m assets.common.driver FILE`: one of the driver processes of a stage; `drivers` starts them."""

import os
import signal
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from assets.common.drivers import DriverMessage, DriverResult, Share
from assets.common.stage import run_until_agreed
from cai_dagster.calls.row_stream import run_rows
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.lake.staging import StagedRows
from cai_dagster.plan.stages import remade
from cai_dagster.processes import decoded, send, when_the_run_ends
from resources.accelerator import ACCELERATOR
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource, LedgerResource


def main(job: Path) -> None:
    """Run the stage's recipe for each row of the share, and say what became of it."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is written is not for the run
    when_the_run_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))

    def send_message(message: DriverMessage) -> None:
        send(output, message)

    try:
        result = _work(decoded(job.read_bytes(), Share), send_message)
    except Exception as error:
        send_message(DriverMessage(failure=f"{type(error).__name__}: {error}"))
        raise
    send_message(DriverMessage(result=result))


def _work(share: Share, send_message: Callable[[DriverMessage], None]) -> DriverResult:
    def log(line: str) -> None:
        send_message(DriverMessage(log=line))

    store = LakeResource().open()
    stage = remade(share.maker, share.arguments)
    tables = {name: TableSnapshot(store, *snapshot) for name, snapshot in share.tables.items()}
    resource = LanguageModelResource(ledger=LedgerResource(), **share.model.model_dump())
    model = resource.language_model(log, share.weights)
    staged = StagedRows(share.folder, share.table, share.constitution_version)

    def run() -> None:
        rows = islice(store.stream(stage.rows, **tables), share.number, None, share.drivers)
        run_rows(
            rows,
            share.rows,
            stage.recipe,
            model,
            staged,
            stage.row_id,
            resource.rows_in_flight,
            lambda progress: send_message(DriverMessage(progress=progress)),
        )

    try:
        run_until_agreed(run, [model], staged, log)
    finally:
        ACCELERATOR.release()
    return DriverResult(staged.files, model.usage)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
