"""What vLLM is given: its arguments, from weights and settings."""

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any

from cai_dagster.models.hardware import resolve_dtype
from cai_dagster.models.settings import Dtype, LanguageModelSettings
from cai_dagster.models.weights import Weights, lora_rank
from resources.engines.vllm.calls import VllmError

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


def engine_arguments(weights: Weights, settings: LanguageModelSettings) -> dict[str, Any]:
    """VLLM's arguments for these weights and settings; those of `settings.engine_arguments` come last.

    Raises VllmError for one that this vLLM does not have.
    """
    from vllm import EngineArgs
    from vllm.platforms import current_platform

    arguments: dict[str, Any] = {
        "model": str(weights.folder),
        "dtype": resolve_dtype(settings.dtype),
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.slots,
        "trust_remote_code": settings.trust_remote_code,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "pipeline_parallel_size": settings.pipeline_parallel_size,
        "data_parallel_size": settings.data_parallel_size,
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": True,
        "load_format": "safetensors",
        "disable_log_stats": True,
    }
    if settings.quantization:
        arguments["quantization"] = settings.quantization
    if settings.head_dtype != Dtype.auto:
        arguments["hf_overrides"] = {"head_dtype": str(settings.head_dtype)}
    if weights.adapter is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": lora_rank(weights.adapter)}
    if settings.max_num_batched_tokens:
        arguments["max_num_batched_tokens"] = max(settings.max_num_batched_tokens, settings.max_model_len)
    if current_platform.is_cpu():
        # A seeded request in a chunked prefill fails on the CPU ("CPU Generator does not use offset").
        arguments |= {"enforce_eager": True, "enable_chunked_prefill": False, "block_size": 32}
        arguments.setdefault("max_num_batched_tokens", max(4096, settings.max_model_len))
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    known = [field.name for field in dataclasses.fields(EngineArgs)]
    for name in settings.engine_arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise VllmError(f"engine_arguments: vLLM has no argument {name!r}{hint}")
    overrides = arguments.get("hf_overrides", {}) | settings.engine_arguments.get("hf_overrides", {})
    return {**arguments, **settings.engine_arguments, **({"hf_overrides": overrides} if overrides else {})}


def lora_request(weights: Weights) -> "LoRARequest | None":
    """The adapter that every call goes through; None where there is none."""
    if weights.adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(weights.adapter))
