"""Content hashes: the ids of rows and calls, the seeds of random draws. It knows nothing of what is hashed."""

import hashlib
import json
from typing import Any

ROW_ID_DIGITS = 32  # 128 bits: a collision among 10⁹ rows has a probability below 10⁻²⁰


def content_hash(value: Any, digits: int = 64) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces, UTF-8), as `digits` hex digits.

    Lone surrogates, which UTF-8 cannot carry, are hashed as their escape and never raise.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:digits]


def unit_interval(*parts: str | int) -> float:
    """A number strictly between 0 and 1 that depends on the parts alone, uniform over them (52 bits)."""
    return ((int(content_hash(parts, 16), 16) >> 12) + 0.5) / 2**52


def seed_of(*parts: str | int) -> int:
    """A 31-bit seed that depends on the parts alone; every sampler in use accepts that width."""
    return int(content_hash(parts, 8), 16) >> 1
