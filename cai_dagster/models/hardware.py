"""What this machine can compute with, found without importing torch."""

import os
import re
from pathlib import Path

_GPU_DEVICES = (Path("/dev/nvidia0"), Path("/dev/kfd"), Path("/dev/dxg"))


def has_gpu() -> bool:
    """Whether an NVIDIA or AMD GPU is visible to this machine."""
    return any(device.exists() for device in _GPU_DEVICES)


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, in one order for all: those of CUDA_VISIBLE_DEVICES, or every one.

    A GPU that is no NVIDIA card is one of a kind: `gpu`.
    """
    if not has_gpu():
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return sorted({name for each in chosen.split(",") if (name := each.strip())})
    return sorted(device.name.removeprefix("nvidia") for device in Path("/dev").glob("nvidia[0-9]*")) or ["gpu"]


def has_fast_bfloat16() -> bool:
    """Whether bfloat16 is fast: on GPUs, and on CPUs with AVX512-BF16 or AMX. Elsewhere float32 is about 5× faster."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(errors="replace") if cpu.exists() else ""
    return has_gpu() or re.search(r"\b(avx512_bf16|amx_bf16)\b", flags) is not None


def resolve_dtype(dtype: str) -> str:
    """`auto` as bfloat16 where that is fast and float32 elsewhere; any other name as it is."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_fast_bfloat16() else "float32"
