"""JSON from people's files: an object with a key twice is refused, as is a number that JSON does not have."""

import json
from collections import Counter
from typing import Any


class JsonTextError(ValueError):
    """A text is not JSON that can be read without loss; the message says why."""


def parsed_json(text: str) -> Any:
    """The value of a JSON text. NaN, which pandas writes for an empty cell, is read as null.

    Raises JsonTextError for what is not JSON, a key given twice, an infinite number, and what is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_refuse_duplicates, parse_constant=_constant, parse_float=_finite)
    except JsonTextError:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise JsonTextError(f"not JSON: {error.msg} ({place})") from error
    except RecursionError as error:
        raise JsonTextError("not JSON that can be read: nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise JsonTextError(f"not JSON: {error}") from error


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise JsonTextError(f"the key {key!r} stands {count} times in one object; only one of them can be meant")
    return dict(pairs)


def _constant(name: str) -> None:
    if name != "NaN":
        raise JsonTextError(f"{name} is no number; write one, or leave the key out")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise JsonTextError(f"{digits[:40]} is too large to be a number here")
    return number
