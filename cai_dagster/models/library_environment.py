"""What the libraries of models read from the environment; set before they are imported."""

import os


def keep_to_this_machine() -> None:
    """Keep Hugging Face and vLLM from calling home."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def prepare_vllm(own_process: bool, cpu_cache_gib: int) -> None:
    """`own_process`: whether vLLM puts its engine in a process beside this one. `cpu_cache_gib`: its cache on a CPU."""
    keep_to_this_machine()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(own_process))
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(cpu_cache_gib)
