"""One cell of a row as a count, a score or a category; or why it is none of them."""

import math
import re
from collections.abc import Mapping
from typing import Any, cast

from cai_dagster.calls.stored_text import is_storable
from cai_dagster.errors import RowError

_LARGEST_COUNT = 2**31
_COUNT = re.compile(r"[0-9]+(?:\.0+)?")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_EMPTY = ("", "nan", "null", "none", "na", "n/a")


class BadCellError(RowError):
    """A cell is not what its column holds; the message names the column."""

    code = "bad_cell"


def count_in(row: Mapping[str, Any], column: str) -> int | None:
    """How many; 3.0 is 3, an empty cell and NaN are None. Raises BadCellError for anything else."""
    value = row.get(column)
    if is_empty(value):
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not _COUNT.fullmatch(text) or float(text) >= _LARGEST_COUNT:
        raise BadCellError(f"{column} is {text[:40]!r}, which is no count; write a whole number from 0 on")
    return int(float(text))


def score_in(row: Mapping[str, Any], column: str) -> float | None:
    """A number; an empty cell and NaN are None. Raises BadCellError for anything else."""
    value = row.get(column)
    if is_empty(value):
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not _NUMBER.fullmatch(text) or math.isinf(float(text)):
        raise BadCellError(f"{column} is {text[:40]!r}, which is no number")
    return float(text)


def category_in(row: Mapping[str, Any], column: str) -> str | None:
    """A category as a text. Raises BadCellError for a cell with several values, and for what is not UTF-8."""
    value = row.get(column)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str | int | float):
        raise BadCellError(f"{column} is {str(cast('object', value))[:40]!r}; a category is one text")
    text = str(value)
    if not is_storable(text):
        raise BadCellError(f"{column} is not UTF-8")
    return text


def is_empty(value: object) -> bool:
    """Whether a cell of numbers holds none: null, NaN, or a text that says so."""
    if isinstance(value, str):
        return value.strip().casefold() in _EMPTY
    return value is None or (isinstance(value, float) and math.isnan(value))
