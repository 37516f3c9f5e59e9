"""Which calls to make again: those whose answer was cut, empty or malformed. The others are not touched.

Marking a call changes nothing but what happens when it is next asked for: it is then another call (`Request.again`).
"""

import re

from cai_dagster.errors import MendableError
from cai_dagster.lake.lake import Lake
from cai_dagster.tables.registry import TABLES
from cai_dagster.text import printable

LONGEST_REASON = 80
_REQUEST = re.compile(r"\(request ([0-9a-f]{64})\)")


class RetryError(MendableError):
    """There is nothing of that kind to make again; the message says what there is."""


def calls_to_retry(lake: Lake, table: str, reason: str, constitution_version: str | None) -> list[str]:
    """Ids of the calls of a table whose finish reason, or whose row's reason of rejection, is `reason`.

    Raises RetryError where no call of that table ended so.
    """
    ends = TABLES[table].finish_reasons if table in TABLES else ()
    if table not in TABLES or not TABLES[table].call_columns:
        made_of_calls = [one.name for one in TABLES.values() if one.call_columns]
        raise RetryError(f"{table} is not made of calls; --table takes {', '.join(made_of_calls)}")
    rows = lake.snapshot(table, constitution_version)
    found: dict[str, list[str]] = {}
    for column in ends:
        columns = f"{column} AS ended, {column.replace('finish_reason', 'request_id')} AS request_id"
        for end, request_id in lake.query(f"SELECT {columns} FROM rows", rows=rows).drop_nulls().iter_rows():
            found.setdefault(end, []).append(request_id)
    for text in lake.rejected(table, constitution_version)["reason"]:
        found.setdefault(text.split(":", 1)[0], []).extend(_REQUEST.findall(text))
    if not found.get(reason):
        counts = {end: len(calls) for end, calls in sorted(found.items()) if calls}
        there = ", ".join(f"{calls:,} × {printable(end, LONGEST_REASON)}" for end, calls in counts.items()) or "nothing"
        raise RetryError(f"{table}: no call ended with {reason!r}; there is {there}")
    return list(dict.fromkeys(found[reason]))
