"""A lake in which every text column of every table carries the hostile texts, the line of a megabyte among them.

The rows are made from the tables' own pandera models, so that a column added later is hostile too.
"""

import json
from datetime import datetime
from typing import Any

import polars as pl
import pytest

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.lake.snapshots import Account
from cai_dagster.tables.column_types import ColumnType
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.table import Table
from cai_dagster.training.checkpoints import CODE_VERSION, CheckpointRecord
from tests.hostile import HOSTILE

VERSION = "v1"
ROWS = len(HOSTILE)
_WITHOUT_ROWS = {"rejected_rows", "materializations"}  # filled by the others' commits
_NUMBERS = {"logp_a": -0.4, "logp_b": -1.2, "p_chosen": 0.8, "score_0": 3.0, "score_1": 4.0, "reward_low": -1.0}
_LISTED_IDS = {"principle_ids", "score_request_ids"}


@pytest.fixture(scope="session")
def hostile_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with such a lake, for all tests: read it only."""
    home = Home(tmp_path_factory.mktemp("hostile").resolve())
    fill_hostile_lake(home)
    return home


def fill_hostile_lake(home: Home) -> Lake:
    """Fill every table of one version, its rejected rows, accounts and check results."""
    lake = Lake(home)
    for table in TABLES.values():
        if table.name in _WITHOUT_ROWS:
            continue
        rows = [hostile_row(table, number) for number in range(ROWS)]
        if table.appended:
            for row in rows:
                lake.append(table.name, row)
            continue
        staged = lake.stage(table.name, VERSION if table.versioned else None)
        staged.add(rows[:1] if "record" in table.schema else rows)
        for number, text in enumerate(HOSTILE):
            staged.reject(f"{number} {text}", f"{text}: hostile", {"prompt": text})
        staged.close()
        assert staged.rejected_count == ROWS, lake.read(staged)
        cost = {"ledger_hits": 3, "ledger_misses": 4, "prompt_tokens": 50, "completion_tokens": 60, "cached_tokens": 20}
        times = {"engine_seconds": 1.0, "seconds": 2.0}
        lake.commit(staged, Account("run", f"{text[:50]}", **cost, **times, model_id=HOSTILE[2]))
    return lake


def hostile_row(table: Table, number: int) -> dict[str, Any]:
    """A row whose every text is hostile, each column's another one, but for ids and what is one of a few words."""
    row: dict[str, Any] = {}
    for offset, (name, dtype) in enumerate(table.schema.items(), number):
        column = table.column(name)
        if column.isin:
            row[name] = column.isin[number % len(column.isin)]
        elif column.type == ColumnType.identifier or name in _LISTED_IDS:
            row[name] = [_id(number)] if isinstance(dtype, pl.List) else _id(number)
        else:
            row[name] = _value(name, dtype, number, offset)
    if "constitution_version" in row:
        row["constitution_version"] = VERSION
    if "opponent" in row and number % 2:
        row["opponent"] = "all"
    if "record" in row:
        row["record"] = _record(table.name, row).model_dump_json()
    return row


def _id(number: int) -> str:
    """The same in every table, so that rows find each other."""
    return f"{number + 1:032x}"


def _value(name: str, dtype: Any, number: int, offset: int) -> Any:
    if dtype == pl.String:
        return HOSTILE[offset % ROWS]
    if isinstance(dtype, pl.List):
        return [_value(name, dtype.inner, number, offset), _value(name, dtype.inner, number, offset + 1)]
    if isinstance(dtype, pl.Struct):
        return {part.name: _value(part.name, part.dtype, number, offset + k) for k, part in enumerate(dtype.fields)}
    if dtype == pl.Boolean:
        return number % 2 == 0
    if isinstance(dtype, pl.Datetime):
        return datetime(2026, 1, 1, number)  # noqa: DTZ001 - the tables keep UTC without saying so
    return _NUMBERS.get(name, 0.5) if dtype == pl.Float64 else number + 1


def _record(asset: str, row: dict[str, Any]) -> CheckpointRecord:
    return CheckpointRecord(
        asset=asset,
        checkpoint_key=row["checkpoint_key"],
        constitution_version=VERSION,
        base_model=HOSTILE[3],
        label_policy=HOSTILE[4],
        settings={HOSTILE[3]: HOSTILE[4]},
        lake_snapshots={},
        row_counts={HOSTILE[2]: 1},
        metrics={HOSTILE[3]: 0.5},
        loss_curve=[(1, 2.0), (2, 1.5)],
        curves={HOSTILE[2]: [(1, 1.0), (2, 2.0)]},
        seconds=1,
        code_version=CODE_VERSION,
        created_at=json.loads('"2026-01-01T00:00:00Z"'),
    )
