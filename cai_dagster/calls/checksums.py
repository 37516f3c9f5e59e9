"""The checksum of a call as it is stored: one flipped bit in the database shows in it."""

import zlib

CHECKED = (
    *("request_id", "model_id", "stage", "prompt_id", "text", "escaped", "finish_reason"),
    *("logprobs", "prompt_tokens", "completion_tokens"),
)
"""The columns it is made of, in this order."""


def checksum(stored: tuple[bytes | str | float | None, ...]) -> int:
    """CRC-32 of the CHECKED columns of a call, as the database has them."""
    return zlib.crc32(b"\0".join(_bytes(value) for value in stored))


def _bytes(value: bytes | str | float | None) -> bytes:
    if isinstance(value, bool):  # SQLite has no type of its own for it
        value = int(value)
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()
