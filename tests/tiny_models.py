"""Tokenizers of a few hundred tokens: for tests that need token ids and no weights."""

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ("<|im_start|>", "<|im_end|>")


def byte_level() -> Tokenizer:
    """All 256 bytes, and " A" and " B" as tokens of their own."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠA", "ĠB"]
    merges = [("Ġ", "A"), ("Ġ", "B")]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_tiny_weights(file: Path, value: float = 0.0) -> None:
    """A safetensors file of a few numbers: whole, and no model's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({"weight": np.full(64, value, dtype=np.float32)}, file)


def write_tiny_model(folder: Path, weights: bytes | None = b"weights") -> Path:
    """A chat model's folder with a byte-level tokenizer; its weights are only bytes, or are not there at all."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = byte_level()
    tokenizer.add_special_tokens(list(CONTROL))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


def write_tiny_network(folder: Path, kind: Any = None, **sizes: int) -> Path:
    """The same with two layers of random weights: a causal model that can be trained, or a model of another kind."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(write_tiny_model(folder, weights=None))
    tokenizer.pad_token = tokenizer.eos_token = CONTROL[-1]
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    usual = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **{**usual, **sizes})
    (kind or LlamaForCausalLM)(config).save_pretrained(folder)
    return folder
