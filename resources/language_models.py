"""Language models as a Dagster resource: `policy` (writes and revises) and `feedback_model` (judges).

An asset asks for a `LedgeredModel` and never sees an engine; the engine is started by the first call that the ledger
cannot answer.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from cai_dagster.chat_format import ChatFormat
from cai_dagster.hardware import resolve_dtype
from cai_dagster.home import PROJECT, Home
from cai_dagster.model_calls import LedgeredModel
from cai_dagster.requests import Engine
from cai_dagster.settings import EngineKind, LanguageModelSettings
from cai_dagster.weights import Weights, locate_weights, with_adapter
from resources.accelerator import ACCELERATOR, Log

if TYPE_CHECKING:
    from cai_dagster.ledger import Ledger


class LedgerResource(dg.ConfigurableResource):
    """The ledger of model calls."""

    url: str = ""
    """SQLAlchemy URL of a PostgreSQL database; empty for a SQLite file in CAI_HOME."""

    def open(self) -> "Ledger":
        """The ledger; one for each database in this process."""
        return _open_ledger(self.url, Home.from_environment())


@cache
def _open_ledger(url: str, home: Home) -> "Ledger":
    from cai_dagster.ledger import Ledger

    return Ledger(url or home.ledger)


class LanguageModelResource(LanguageModelSettings, dg.ConfigurableResource):
    """A language model and how it is served."""

    ledger: dg.ResourceDependency[LedgerResource]

    def weights(self) -> Weights:
        """The configured model on this machine, with its adapter if there is one; what can be trained on."""
        return self._find(served_elsewhere=False)

    def served_weights(self) -> Weights:
        """The configured model for asking it: where servers hold the weights, tokenizer and config are enough here."""
        return self._find(served_elsewhere=True) if self.engine == EngineKind.http else self.weights()

    def chat_format(self) -> ChatFormat:
        """The configured model's tokenizer and template."""
        return ChatFormat(self.served_weights().folder, self.trust_remote_code)

    def language_model(self, log: Log, weights: Weights | None = None) -> LedgeredModel:
        """The configured model, or other weights served the same way, behind the ledger."""
        served = weights or self.served_weights()
        # `auto` is decided where the model is served: over HTTP this machine does not know and must not guess.
        dtype = self.dtype if self.engine == EngineKind.http else resolve_dtype(self.dtype)
        return LedgeredModel(served.model_id(dtype), lambda: self.start_engine(served, log), self.ledger.open())

    def start_engine(self, weights: Weights, log: Log) -> Engine:
        """The engine that serves these weights, where the settings say."""
        fields = LanguageModelSettings.model_fields
        settings = LanguageModelSettings.model_validate({name: getattr(self, name) for name in fields})
        if weights != self.served_weights():  # `served_model` is a name of the configured model only
            settings = settings.model_copy(update={"served_model": weights.name})
        return ACCELERATOR.engine(weights, settings, log)

    def _find(self, served_elsewhere: bool) -> Weights:
        home = Home.from_environment()
        weights = locate_weights(self.model, self.revision, home, served_elsewhere)
        return with_adapter(weights, PROJECT / Path(self.adapter).expanduser(), home) if self.adapter else weights

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Give the accelerator back at the end of the run."""
        ACCELERATOR.release()
