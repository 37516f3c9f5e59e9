"""Content hashes: the ids of rows and calls, the seeds of random draws. It knows nothing of what is hashed."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashlib import _Hash  # pyright: ignore[reportPrivateUsage]

ROW_ID_DIGITS = 32  # 128 bits: a collision among 10⁹ rows has a probability below 10⁻²⁰


def content_hash(value: Any, digits: int = 64) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces, UTF-8), as `digits` hex digits.

    Lone surrogates, which UTF-8 cannot carry, are hashed as their escape and never raise.
    """
    return hashlib.sha256(_canonical(value)).hexdigest()[:digits]


def content_hash_of_list(values: Iterable[Any]) -> str:
    """`content_hash` of a list of these values, of which one at a time is in memory."""
    digest = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        digest.update(b"," if number else b"")
        digest.update(_canonical(value))
    digest.update(b"]")
    return digest.hexdigest()


def unit_interval(*parts: str | int) -> float:
    """A number strictly between 0 and 1 that depends on the parts alone, uniform over them (52 bits)."""
    return _fraction(hashlib.sha256(_canonical(parts)))


def unit_intervals(place: Sequence[str | int], names: Iterable[str]) -> list[float]:
    """For each name a number strictly between 0 and 1 that depends on the place and the name alone (52 bits)."""
    start = hashlib.sha256(_canonical(place))
    fractions: list[float] = []
    for name in names:
        digest = start.copy()
        digest.update(name.encode())
        fractions.append(_fraction(digest))
    return fractions


def seed_of(*parts: str | int) -> int:
    """A 31-bit seed that depends on the parts alone; every sampler in use accepts that width."""
    return int(content_hash(parts, 8), 16) >> 1


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _canonical(value: Any) -> bytes:
    return _encode(value).encode("utf-8", "backslashreplace")


def _fraction(digest: "_Hash") -> float:
    return ((int.from_bytes(digest.digest()[:8]) >> 12) + 0.5) / 2**52
