"""Language models as a Dagster resource: `policy` (writes and revises) and `feedback_model` (judges).

An asset asks for a `LedgeredModel` and never sees an engine; the engine is started by the first call that the ledger
cannot answer.
"""

from functools import cache
from typing import TYPE_CHECKING

import dagster as dg

from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.requests import Engine
from cai_dagster.home import Home
from cai_dagster.models.configured import ConfiguredModel
from cai_dagster.models.reasoning import ReasoningMarks
from cai_dagster.models.settings import EngineKind
from cai_dagster.models.weights import Weights
from resources.accelerator import ACCELERATOR
from resources.engines.http.models import NotServedError
from resources.engines.protocol import Log

if TYPE_CHECKING:
    from cai_dagster.calls.ledger import Ledger


class LedgerResource(dg.ConfigurableResource):
    """The ledger of model calls."""

    def open(self) -> "Ledger":
        """The ledger; one for each home in this process."""
        return _open_ledger(Home.from_environment())


@cache
def _open_ledger(home: Home) -> "Ledger":
    from cai_dagster.calls.ledger import open_ledger

    return open_ledger(home)


class LanguageModelResource(ConfiguredModel, dg.ConfigurableResource):
    """A language model and how it is served."""

    ledger: dg.ResourceDependency[LedgerResource]

    def language_model(self, log: Log, weights: Weights | None = None) -> LedgeredModel:
        """The configured model, or other weights served the same way, behind the ledger."""
        served = weights or self.served_weights()
        ledger = self.ledger.open()
        marks = self.chat_options.reasoning_marks
        return LedgeredModel(
            self.model_id(served),
            lambda: self.start_engine(served, log),
            ledger,
            self.chat_format,
            ReasoningMarks(*marks) if marks else None,
        )

    def drivers_of(self, rows: int, checkpoint: Weights | None) -> int:
        """Processes that ask for a stage of so many rows; one for a checkpoint that may have to be asked from here."""
        return 1 if checkpoint is not None and self.checkpoints_here else self.drivers_for(rows)

    def start_engine(self, weights: Weights, log: Log) -> Engine:
        """The engine that serves these weights, where the settings say."""
        settings = self.settings
        if weights == self.served_weights():
            return ACCELERATOR.engine(weights, settings, log)
        # A checkpoint that was trained here. `served_model` is a name of the configured model only.
        settings = settings.model_copy(update={"served_model": weights.name})
        try:
            return ACCELERATOR.engine(weights, settings, log)
        except NotServedError as error:
            if not settings.checkpoints_here:
                raise
            log(f"{error} It is asked in this process instead (checkpoints_here).")
        return ACCELERATOR.engine(weights, settings.model_copy(update={"engine": EngineKind.auto}), log)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Give the accelerator back at the end of the run."""
        ACCELERATOR.release()
