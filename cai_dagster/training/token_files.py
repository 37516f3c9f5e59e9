"""Token rows in files: what a training reads.

Rows are written as they are made, and `datasets` maps the file into memory: a training of any size needs the memory of
a batch, and the processes of one training share the file. It imports no `datasets`: assets write such files too.
"""

# pyarrow is typed in part only.
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa

_ROWS_AT_ONCE = 1_000
_COLUMN_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), Sequence[int]: pa.list_(pa.int32())}


@dataclass(frozen=True)
class TokenFile:
    """An Arrow stream of `count` rows, a column for each field of the rows' dataclass."""

    path: Path
    count: int


def write_token_rows(kind: type, rows: Iterable[Any], path: Path) -> TokenFile:
    """Write the rows, which are of a dataclass `kind` with fields of numbers, texts and lists of token ids."""
    columns = [pa.field(name, _COLUMN_TYPES[hint]) for name, hint in get_type_hints(kind).items()]
    schema, remaining, count = pa.schema(columns), iter(rows), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        while some := list(islice(remaining, _ROWS_AT_ONCE)):
            stream.write_batch(pa.RecordBatch.from_pylist([vars(row) for row in some], schema))
            count += len(some)
    return TokenFile(path, count)
