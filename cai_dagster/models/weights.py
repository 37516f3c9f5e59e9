"""Which folder a model name means, and the identity of what is in it.

It knows nothing of engines; what it returns is all an engine or a trainer needs to load the model.
"""

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.models.chat_format import FORMAT_VERSION
from cai_dagster.models.library_environment import keep_to_this_machine
from cai_dagster.models.offline import NAME, prepare_offline_model
from cai_dagster.project import PROJECT

OFFLINE = "offline"
_IDENTIFYING = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.py")
_DIGESTS = TypeAdapter(dict[str, str])
_HOW_LOADED = ("is_local", "local_files_only", "name_or_path")


class WeightsError(MendableError):
    """A model's files are not there or not usable; the message says what to do."""


@dataclass(frozen=True)
class Weights:
    """A model on this machine: its name for people, its folder, the hash of its files, and a LoRA adapter over it.

    `rendering` is how its prompts differ from those of the usual chat options.
    """

    name: str
    folder: Path
    digest: str
    adapter: Path | None = None
    rendering: str = ""

    def model_id(self, arithmetic: str) -> str:
        """The identity that goes into request ids: files, numerical types and the way dialogues are rendered."""
        return f"{self.name}@{self.digest[:16]}/{arithmetic}/format-{FORMAT_VERSION}{self.rendering}"


def locate_weights(model: str, revision: str, home: Home, served_elsewhere: bool = False) -> Weights:
    """Find `offline`, a folder, or a Hugging Face model that is on this machine.

    Raises WeightsError when it is not here or has no safetensors (pickled weights can run code and are refused). Of a
    model that is served elsewhere only tokenizer and config need be here.
    """
    if model == OFFLINE:
        return weights_of(NAME, prepare_offline_model(home), home)
    folder = PROJECT / Path(model).expanduser()
    name, folder = (folder.name, folder) if folder.is_dir() else (model, _hub_folder(model, revision))
    if served_elsewhere and not has_weights(folder):
        return _described_weights(name, folder, revision, home)
    return weights_of(name, folder, home)


def has_weights(folder: Path) -> bool:
    """Whether the folder holds a model's weights, or only what describes it."""
    return any(folder.glob("*.safetensors"))


def weights_of(name: str, folder: Path, home: Home) -> Weights:
    """The weights in a folder; their hash is computed once for each state of the files.

    Raises WeightsError when there is no safetensors file.
    """
    if not has_weights(folder):
        raise WeightsError(f"{folder}: no safetensors file; convert the model with transformers' save_pretrained")
    return Weights(name, folder, _known_digest(folder, home))


def checkpoint_weights(asset: str, key: str, folder: Path, home: Home) -> Weights:
    """The weights of a checkpoint that was trained here."""
    return weights_of(f"{asset}-{key[:12]}", folder, home)


def with_adapter(base: Weights, adapter: Path, home: Home) -> Weights:
    """The model with a LoRA adapter (PEFT) on top of it.

    Raises WeightsError when the folder holds no adapter in safetensors.
    """
    if not (adapter / "adapter_config.json").exists():
        raise WeightsError(f"{adapter}: no adapter_config.json; `adapter` names the folder of a LoRA adapter (PEFT)")
    added = weights_of(adapter.name, adapter, home)
    digest = hashlib.sha256(f"{base.digest} {added.digest}".encode()).hexdigest()
    return Weights(f"{base.name}+{added.name}", base.folder, digest, adapter)


def lora_rank(adapter: Path) -> int:
    """The rank of a LoRA adapter."""
    return int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])


def fresh_digest(folder: Path) -> str:
    """The hash of the files as they are, whatever was known of them."""
    return _digest(_identifying(folder))


def known_digest(folder: Path, home: Home) -> str | None:
    """The hash that the files had when it was last taken; None where their sizes or times are others since."""
    return known_digests(home).get(_state(folder))


def lacking(folder: Path) -> list[str]:
    """What a model's folder does not have and cannot be loaded without, apart from the weights."""
    return [what for what in ("config.json", "tokenizer*") if not any(folder.glob(what))]


def is_whole(safetensors_file: Path) -> bool:
    """Whether a safetensors file has as many bytes as its header says."""
    import safetensors

    try:
        with safetensors.safe_open(safetensors_file, framework="numpy"):
            return True
    except (OSError, safetensors.SafetensorError):
        return False


def former_digests(folder: Path, home: Home) -> list[str]:
    """The hashes that the folder's files had before they had the one they have now."""
    known = known_digests(home)
    now = known.get(_state(folder))
    return sorted({digest for key, digest in known.items() if key.startswith(f"{folder} [") and digest != now})


def _described_weights(name: str, folder: Path, revision: str, home: Home) -> Weights:
    """A model of which only tokenizer and config are here; `revision` stands for the weights."""
    if not (folder / "tokenizer.json").exists():
        raise WeightsError(f"{folder}: no tokenizer.json; a model that is served elsewhere needs its tokenizer here")
    described = f"{_known_digest(folder, home)} {revision}"
    return Weights(name, folder, hashlib.sha256(described.encode()).hexdigest())


def _identifying(folder: Path) -> list[Path]:
    """The files that make a model what it is."""
    return sorted({file for pattern in _IDENTIFYING for file in folder.glob(pattern) if file.name != "record.json"})


def _state(folder: Path) -> str:
    """What tells without reading them whether files have changed."""
    files = _identifying(folder)
    return f"{folder} {json.dumps([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])}"


def known_digests(home: Home) -> dict[str, str]:
    """The hashes that were taken in this home, by folder and the state of its files.

    Raises WeightsError when what is written of them is damaged.
    """
    if not home.model_digests.exists():
        return {}
    try:
        return _DIGESTS.validate_json(home.model_digests.read_bytes())
    except ValidationError as error:
        raise WeightsError(
            f"{home.model_digests} is damaged ({str(error).splitlines()[0]}). Remove it: the hashes of the models are "
            "then taken anew."
        ) from error


def _known_digest(folder: Path, home: Home) -> str:
    known, key = known_digests(home), _state(folder)
    if key not in known:
        known[key] = fresh_digest(folder)
        known_file = home.model_digests
        known_file.parent.mkdir(parents=True, exist_ok=True)
        scratch = known_file.with_suffix(f".{uuid.uuid4().hex}")
        scratch.write_text(json.dumps(known, indent=1))
        scratch.replace(known_file)
    return known[key]


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            if file.name == "tokenizer_config.json":  # transformers notes in it how the tokenizer was loaded
                kept = {name: value for name, value in json.load(stream).items() if name not in _HOW_LOADED}
                content = json.dumps(kept, sort_keys=True).encode()
            else:
                content = hashlib.file_digest(stream, "sha256").digest()
        digest.update(file.name.encode() + b"\0" + content)
    return digest.hexdigest()


def _hub_folder(model: str, revision: str) -> Path:
    keep_to_this_machine()
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        hub: Any = huggingface_hub
        return Path(hub.snapshot_download(model, revision=revision or None))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError) as error:
        raise WeightsError(
            f"{model!r} is neither a folder nor a Hugging Face model on this machine. Download it with "
            f"`hf download {model}`, or set HF_HUB_OFFLINE=0 to let the run download it."
        ) from error
