"""Whether what lies in a home fits together: the lake's catalog and its files, the ledger, the checkpoints.

The databases are read as files, so that a damaged one is described and not opened. Only the rows themselves are read
through the lake. It mends nothing but what no reader looks at: `remove_leftovers`.
"""

# pyright: reportMissingTypeStubs=false

import sqlite3

from cai_dagster.calls.ledger import LedgerError, open_ledger
from cai_dagster.calls.ledger_schema import refusal_of
from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import is_begun, reading
from cai_dagster.lake.reader import restore
from cai_dagster.upkeep.catalog import NAMED, examine_catalog, examine_database
from cai_dagster.upkeep.checkpoints import examine_checkpoints
from cai_dagster.upkeep.findings import Finding, Level, good, problem, some_of
from cai_dagster.upkeep.leftovers import examine_leftovers
from cai_dagster.upkeep.salvage import altered_calls
from cai_dagster.upkeep.tables import examine_files, examine_rows, without_catalog

_NO_LEDGER = (
    "put a copy of it back, if there is one; otherwise `cai doctor --salvage` makes a new one of what can still be read"
)


def examine_integrity(home: Home, full: bool = False) -> list[Finding]:
    """Everything about the tables, the ledger and the checkpoints of a home; `full` reads every row of every table."""
    catalog = examine_catalog(home)
    if home.shared_ledger:
        ledger = _shared_ledger(home, full)
    else:
        ledger = examine_database("ledger", home.ledger, _NO_LEDGER) or _ledger(home, full)
    left = examine_leftovers(home)  # before the lake is opened, which sweeps what dead processes left
    findings = [*catalog, *ledger]
    if not catalog and not is_begun(home):
        findings.append(without_catalog(home))
    elif not catalog:
        files = examine_files(home)
        findings += files
        if not any(finding.remedy == restore(home) for finding in files):
            findings += examine_rows(home, all(finding.level == Level.good for finding in ledger), full)
    if not any(finding.topic == "ledger" for finding in findings):
        findings.append(good("ledger", "none yet: no model call was ever paid for"))
    return [*findings, *left, *examine_checkpoints(home, full)]


def _shared_ledger(home: Home, full: bool) -> list[Finding]:
    try:
        ledger = open_ledger(home)
        calls = sum(ledger.totals().values())
        altered = ledger.altered() if full else []
    except LedgerError as error:
        return [problem("ledger", str(error), "start the server, or set CAI_LEDGER to where the ledger is")]
    if altered:
        remedy = "Delete them from its table calls, so that they alone are made again; or put a backup back."
        return [_altered(altered, remedy)]
    return [good("ledger", f"{calls:,} calls in the database that CAI_LEDGER names")]


def _altered(request_ids: list[str], remedy: str) -> Finding:
    text = f"{len(request_ids):,} calls are not as they were written: {some_of(request_ids, NAMED)}"
    return problem("ledger", text, remedy)


def _ledger(home: Home, full: bool) -> list[Finding]:
    if not home.ledger.exists():
        return []
    with reading(home.ledger) as connection:
        try:
            (version,) = connection.execute("SELECT max(version) FROM ledger_schema").fetchone()
            calls, size = connection.execute("SELECT count(*) FROM calls").fetchone()[0], home.ledger.stat().st_size
        except sqlite3.DatabaseError as error:
            return [problem("ledger", f"{home.ledger} is no ledger: {error}", _NO_LEDGER)]
    if refusal := refusal_of(version):
        found, _, remedy = refusal.partition("; ")
        return [problem("ledger", found, f"{remedy.capitalize()}.")]
    if full and (altered := altered_calls(home.ledger)):
        return [_altered(altered, "`cai doctor --salvage` leaves them out, so that they alone are made again.")]
    return [good("ledger", f"{calls:,} calls, {size / 1e6:,.0f} MB")]
