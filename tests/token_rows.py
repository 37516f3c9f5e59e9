"""Token rows in files, for tests of what is trained on them."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from cai_dagster.training.token_files import TokenFile, write_token_rows


def on_disk(rows: Iterable[Any]) -> TokenFile:
    """Rows of one dataclass in a file of a new folder."""
    some = list(rows)
    return write_token_rows(type(some[0]), some, Path(tempfile.mkdtemp(prefix="token-rows-")) / "rows.arrow")


def rows_of(file: TokenFile) -> list[dict[str, Any]]:
    """The rows of a file, a dict each."""
    return pa.ipc.open_stream(file.path.read_bytes()).read_all().to_pylist()
