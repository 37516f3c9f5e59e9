"""The types that a column may have, and the polars type of each."""

from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_MESSAGE = ("role", "content")
_DIALOGUE = ("prompt", "response", "critique_request", "critique", "revision_request", "revision")
_COMPARISON = ("prompt", "response_a", "response_b", "comparison_request", "better", "rationale")
_SCORES = ("score_a", "score_b")


class ColumnType(StrEnum):
    """The type of a column. Texts, integers, numbers, messages, dialogues and comparisons are lists."""

    identifier = "identifier"  # hex digits
    text = "text"
    integer = "integer"
    number = "number"
    boolean = "boolean"
    time = "time"
    texts = "texts"
    integers = "integers"
    numbers = "numbers"
    messages = "messages"
    dialogues = "dialogues"
    comparisons = "comparisons"


@cache
def polars_type(column_type: ColumnType) -> "pl.DataType":
    """The type in a frame and in the lake. Imports polars when it is called: names of columns are read without it."""
    import polars as pl

    def structs(texts: tuple[str, ...], integers: tuple[str, ...] = ()) -> pl.List:
        return pl.List(pl.Struct({**dict.fromkeys(texts, pl.String), **dict.fromkeys(integers, pl.Int64)}))

    types: dict[ColumnType, pl.DataType] = {
        ColumnType.identifier: pl.String(),
        ColumnType.text: pl.String(),
        ColumnType.integer: pl.Int64(),
        ColumnType.number: pl.Float64(),
        ColumnType.boolean: pl.Boolean(),
        ColumnType.time: pl.Datetime("us"),
        ColumnType.texts: pl.List(pl.String),
        ColumnType.integers: pl.List(pl.Int64),
        ColumnType.numbers: pl.List(pl.Float64),
        ColumnType.messages: structs(_MESSAGE),
        ColumnType.dialogues: structs(_DIALOGUE),
        ColumnType.comparisons: structs(_COMPARISON, _SCORES),
    }
    return types[column_type]
