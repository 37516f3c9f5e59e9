"""Whether what a server serves is the model that is meant: its name, its files where they can be seen, its context.

The model's identity is part of every request's id, so an answer of another model must never be taken for its own. It
knows neither the network nor how calls are made.
"""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from cai_dagster.home import Home
from cai_dagster.models.settings import Dtype, LanguageModelSettings
from cai_dagster.models.weights import Weights, WeightsError, has_weights, lora_rank, weights_of, with_adapter

FEWEST_LOGPROBS = 5  # from which the step of logits can be told
FINEST_STEP = 1 / 64  # of logits in bfloat16 that are 2 or more
STEP_TOLERANCE = 0.05


class ServersError(RuntimeError):
    """The servers cannot be used for this stage; the message says which, why, and what to do."""


class NotServedError(ServersError):
    """A server answers, and serves another model."""


class ModelCard(BaseModel):
    """One entry of a server's list of models. `root` is the folder or name its weights are from; `parent` is the model
    below an adapter.
    """

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


@dataclass(frozen=True)
class ExpectedModel:
    """The model that servers must serve, and how it may be called there."""

    weights: Weights
    settings: LanguageModelSettings

    @property
    def name(self) -> str:
        """What the servers should call it."""
        return self.settings.served_model or self.weights.name

    def card(self, cards: Sequence[ModelCard]) -> ModelCard | None:
        """The entry of this model, if there is one."""
        adapter = self.weights.adapter is not None
        candidates = [card for card in cards if adapter or card.parent is None]
        named = [card for card in candidates if card.id == self.name]
        if not named and not adapter and not self.settings.served_model:
            names = {self.weights.name, self.weights.folder.name}
            named = [card for card in candidates if _is_called(card.id, names)]
        return named[0] if named else None

    def refuse_other_weights(self, card: ModelCard, cards: Sequence[ModelCard]) -> None:
        """Raise ServersError when the entry's files, as far as they can be seen here, are others."""
        if not has_weights(self.weights.folder):
            return
        try:
            served = _weights_on_this_machine(card, cards)
        except WeightsError as error:
            raise ServersError(f"it serves {card.id!r} from {card.root}, which cannot be used: {error}") from None
        if served is not None and served.digest != self.weights.digest:
            raise ServersError(
                f"it serves {card.id!r} from {card.root}, whose files are not those of {self.weights.folder}"
                f"{_with(self.weights.adapter)}. {self.remedy}"
            )

    def refuse_other_base(self, cards: Sequence[ModelCard]) -> None:
        """Raise ServersError when no model that is served can be the one below the adapter."""
        base = self.weights.name.removesuffix(f"+{self.weights.adapter.name}") if self.weights.adapter else ""
        if not any(
            _is_called(name, {base, self.weights.folder.name}) for card in cards for name in (card.id, card.root)
        ):
            names = ", ".join(repr(card.id) for card in cards) or "nothing"
            raise ServersError(f"it serves {names}, not {base!r}, which the adapter belongs to. {self.remedy}")

    def refuse_short_context(self, card: ModelCard, cards: Sequence[ModelCard]) -> None:
        """Raise ServersError when the server's context is shorter than the settings promise."""
        base = next((other for other in cards if other.id == card.parent), card)
        wanted = self.settings.max_model_len
        if base.max_model_len is not None and base.max_model_len < wanted:
            raise ServersError(
                f"its context is {base.max_model_len} tokens and max_model_len is {wanted}: start it with "
                f"--max-model-len {wanted}, or lower max_model_len in the settings."
            )

    @property
    def wants_fine_logits(self) -> bool:
        """Whether the settings say that logits are not rounded to bfloat16."""
        return self.settings.head_dtype == Dtype.float32

    def refuse_coarse_logits(self, logprobs: Sequence[float]) -> None:
        """Raise ServersError where logits are rounded to bfloat16.

        `logprobs` are those of the most likely tokens of one prompt; their differences are those of the logits.
        """
        if len(logprobs) < FEWEST_LOGPROBS:
            return
        steps = [(logprob - logprobs[0]) / FINEST_STEP for logprob in logprobs[1:]]
        if all(abs(step - round(step)) < STEP_TOLERANCE for step in steps):
            raise ServersError(
                f"its logits are rounded to bfloat16, and head_dtype is float32. {self.remedy} Or set head_dtype to "
                "auto."
            )

    @property
    def remedy(self) -> str:
        """What to do when a server does not serve it."""
        other_name = "" if self.settings.served_model else ", or say in `served_model` what the server calls it"
        return f"Serve it with `{self.command}`{other_name}."

    @property
    def command(self) -> str:
        """A shell command that serves it."""
        folder, adapter = str(self.weights.folder), self.weights.adapter
        arguments = ["vllm", "serve", folder]
        if adapter is None:
            arguments += ["--served-model-name", self.name]
        else:
            arguments += ["--enable-lora", "--max-lora-rank", str(lora_rank(adapter))]
            arguments += ["--lora-modules", f"{self.name}={adapter}"]
        arguments += ["--max-model-len", str(self.settings.max_model_len), "--generation-config", "vllm"]
        if self.settings.dtype != Dtype.auto:
            arguments += ["--dtype", str(self.settings.dtype)]
        if self.settings.quantization:
            arguments += ["--quantization", self.settings.quantization]
        if self.settings.head_dtype != Dtype.auto:
            arguments += ["--hf-overrides", json.dumps({"head_dtype": self.settings.head_dtype})]
        return shlex.join(arguments)


def _is_called(name: str | None, names: set[str]) -> bool:
    """Whether a server means one of the names: it calls a model by the folder it was started with, if that is all it
    was told, and on another machine that may be another path.
    """
    path = PurePosixPath(name or "")
    return name in names or (path.is_absolute() and path.name in names)


def _weights_on_this_machine(card: ModelCard, cards: Sequence[ModelCard]) -> Weights | None:
    """What the server loaded, if that is on this machine: a server elsewhere may name a folder of its own."""
    home = Home.from_environment()
    base = next((other for other in cards if other.id == card.parent), card)
    folder = _folder(base.root)
    if folder is None or not has_weights(folder):
        return None
    weights = weights_of(folder.name, folder, home)
    if card.parent is None:
        return weights
    adapter = _folder(card.root)
    return with_adapter(weights, adapter, home) if adapter is not None else None


def _folder(root: str | None) -> Path | None:
    """The folder, if it is one that can be read here."""
    path = Path(root or "")
    usable = path.is_absolute() and os.access(path, os.R_OK | os.X_OK) and path.is_dir()
    return path if usable else None


def _with(adapter: Path | None) -> str:
    return f" with the adapter {adapter}" if adapter else ""
