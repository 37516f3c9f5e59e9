"""A configured language model as it lies on this machine: its files, its tokenizer, its identity.

What a plan needs to know of a model before any is loaded, and all that a run needs to start one. It knows no engine.
"""

from pathlib import Path

from cai_dagster.chat_format import ChatFormat
from cai_dagster.hardware import resolve_dtype
from cai_dagster.home import PROJECT, Home
from cai_dagster.settings import LanguageModelSettings
from cai_dagster.weights import Weights, locate_weights, with_adapter


class ConfiguredModel(LanguageModelSettings):
    """A language model and how it is served."""

    def weights(self) -> Weights:
        """The configured model on this machine, with its adapter if there is one."""
        home = Home.from_environment()
        weights = locate_weights(self.model, self.revision, home)
        return with_adapter(weights, PROJECT / Path(self.adapter).expanduser(), home) if self.adapter else weights

    def chat_format(self) -> ChatFormat:
        """The configured model's tokenizer and template."""
        return ChatFormat(self.weights().folder, self.trust_remote_code)

    def model_id(self, weights: Weights) -> str:
        """The identity, in every request's id, of these weights served by these settings."""
        return weights.model_id(resolve_dtype(self.dtype))
