"""A configured language model as it lies on this machine: its files, its tokenizer, its identity.

What a plan needs to know of a model before any is loaded, and all that a run needs to start one. It knows no engine.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from cai_dagster.home import Home
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.models.chat_options import ChatOptions, template_text
from cai_dagster.models.settings import EngineKind, LanguageModelSettings
from cai_dagster.models.weights import Weights, locate_weights, with_adapter
from cai_dagster.project import PROJECT


class ConfiguredModel(LanguageModelSettings):
    """A language model and how it is served."""

    @property
    def settings(self) -> LanguageModelSettings:
        """The settings alone, without what a resource adds to them."""
        fields = LanguageModelSettings.model_fields
        return LanguageModelSettings.model_validate({name: getattr(self, name) for name in fields})

    def weights(self) -> Weights:
        """The configured model on this machine, with its adapter if there is one; what can be trained on."""
        return self._find(served_elsewhere=False)

    def served_weights(self) -> Weights:
        """The configured model for asking it: where servers hold the weights, tokenizer and config are enough here."""
        return self._find(served_elsewhere=True) if self.engine == EngineKind.http else self.weights()

    def chat_format(self) -> ChatFormat:
        """The configured model's tokenizer and template."""
        weights = self.served_weights()
        return _chat_format(weights.folder, weights.digest, self.chat_options)

    def model_id(self, weights: Weights) -> str:
        """The identity, in every request's id, of these weights served by these settings."""
        return self._rendered(weights).model_id(self.arithmetic)

    def _find(self, served_elsewhere: bool) -> Weights:
        home = Home.from_environment()
        weights = locate_weights(self.model, self.revision, home, served_elsewhere)
        if self.adapter:
            weights = with_adapter(weights, PROJECT / Path(self.adapter).expanduser(), home)
        return self._rendered(weights)

    def _rendered(self, weights: Weights) -> Weights:
        return replace(weights, rendering=self.chat_options.identity(template_text(weights.folder)))


@lru_cache(maxsize=8)
def _chat_format(folder: Path, _digest: str, options: ChatOptions) -> ChatFormat:
    """A second to make, and the same for the same files."""
    return ChatFormat(folder, options)
