"""Whether the tables of a home are whole: files, rows, calls and checkpoints that rows name."""

# pyright: reportMissingTypeStubs=false

from typing import Any

from cai_dagster.calls.ledger import open_ledger
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import catalog_named, is_begun, reading
from cai_dagster.lake.connection import LakeError
from cai_dagster.lake.forgotten_prompts import forgotten_prompts
from cai_dagster.lake.reader import has_committed_files, restore
from cai_dagster.tables.registry import tables_with
from cai_dagster.tables.table import Maker
from cai_dagster.training.checkpoint_folders import RECORD, checkpoint_folder, checkpoint_folders, place_of_row
from cai_dagster.upkeep.catalog import catalog_files, command_to_materialize, examine_catalog, files_named
from cai_dagster.upkeep.findings import MEND, Finding, good, problem, quoted, warning


def mend_filters(home: Home) -> list[str]:
    """Make filters find every row of the tables whose rows they miss; the names of these tables."""
    from cai_dagster.lake.lake import Lake
    from cai_dagster.lake.row_integrity import hidden_from_filters
    from cai_dagster.tables.registry import TABLES

    if examine_catalog(home) or not is_begun(home):
        return []
    lake = Lake(home)
    hidden = [table.name for table in TABLES.values() if hidden_from_filters(lake, table)]
    if hidden:
        lake.widen_text_bounds()
    lake.close()
    return hidden


def without_catalog(home: Home) -> Finding:
    """What is said of a home that has no catalog."""
    if has_committed_files(home):
        text = f"the catalog {catalog_named(home)} is gone or empty, but the tables it described are not"
        return problem("lake", text, restore(home))
    return good("lake", "empty: nothing has been materialized yet")


def examine_files(home: Home) -> list[Finding]:
    """The catalog against the files it names."""
    try:
        named = catalog_files(home)
    except LakeError as error:
        return [problem("lake", str(error), restore(home))]
    if not named and has_committed_files(home):
        text = f"the catalog {catalog_named(home)} names none of the files in {home.tables}: it is not theirs"
        return [problem("lake", text, restore(home))]
    sizes = {file: file.stat().st_size for file in home.tables.rglob("*.parquet")}  # one listing of object storage
    lost = [file for file in named if file.path not in sizes and not file.path.exists()]
    cut = [file for file in named if sizes.get(file.path, file.bytes) != file.bytes]
    findings: list[Finding] = []
    for files, what in ((lost, "gone"), (cut, "of another size than when they were written")):
        current = [file.path for file in files if file.current]
        old = [file.path for file in files if not file.current]
        if current:
            findings.append(
                problem("lake", f"files of tables {what}: {files_named(current)} ({len(current):,})", restore(home))
            )
        if old:
            text = f"files of earlier snapshots {what}: {files_named(old)} ({len(old):,})"
            findings.append(
                warning("lake", text, "none is needed: the tables as they are now are whole, those snapshots are not")
            )
    if not findings:
        current = sum(file.current for file in named)
        findings.append(
            good("lake", f"{len(named):,} files, {current:,} of them in the current snapshot; none missing")
        )
    return findings


def examine_rows(home: Home, with_ledger: bool, full: bool) -> list[Finding]:
    """The rows: whether the lake opens, their calls are in the ledger and their checkpoints are where they say."""
    import duckdb

    from cai_dagster.lake.lake import Lake

    try:
        lake = Lake(home)
        lake.select("SELECT count(*) FROM lake.materializations", {})
        if hidden := _hidden_rows(lake):
            return hidden  # the looks below filter
        damaged = (_doubled_rows(lake, home) or _damaged_rows(lake, home)) if full else []
        calls = _lost_calls(lake, home) if with_ledger else []
        return [*damaged, *_lost_checkpoints(lake, home), *_remembered(lake, home), *calls]
    except MendableError as error:
        return [problem("lake", str(error), "as it says there")]
    except duckdb.Error as error:
        return [problem("lake", f"a table cannot be read: {error}", restore(home))]


def _hidden_rows(lake: Any) -> list[Finding]:
    """Tables of which a filter finds fewer rows than there are: the catalog's bounds of a column are too narrow."""
    from cai_dagster.lake.row_integrity import hidden_from_filters
    from cai_dagster.tables.registry import TABLES

    hidden = {table.name: columns for table in TABLES.values() if (columns := hidden_from_filters(lake, table))}
    return [
        problem("lake", f"{table}: filters on {', '.join(columns)} miss rows that the table has", MEND)
        for table, columns in hidden.items()
    ]


def _doubled_rows(lake: Any, home: Home) -> list[Finding]:
    """Versions that were materialized again while filters missed their rows: they have the old rows and the new."""
    from cai_dagster.lake.row_integrity import doubled_keys
    from cai_dagster.tables.registry import TABLES

    return [
        problem(
            "lake",
            f"{table.name} of {version}: several rows have one key",
            command_to_materialize(home, table.name, version),
        )
        for table in TABLES.values()
        if table.versioned
        for version in doubled_keys(lake, table)
    ]


def _damaged_rows(lake: Any, home: Home) -> list[Finding]:
    """Every row is read, and the rows of a table have to be those that their account tells of."""
    from cai_dagster.lake.newest import newest_materializations
    from cai_dagster.lake.snapshots import TableSnapshot
    from cai_dagster.tables.registry import TABLES

    now = lake.current_snapshot()  # of a commit all or nothing
    newest = newest_materializations(snapshot_id=now)
    accounts = lake.select(f"SELECT table_name, constitution_version, data_version FROM ({newest}) ORDER BY ALL", {})
    findings: list[Finding] = []
    for table in TABLES.values():
        told = {version: data_version for name, version, data_version in accounts.iter_rows() if name == table.name}
        found = lake.data_versions(TableSnapshot(lake, table.name, None, now))
        for version in (one for one in told if found.get(one, "empty") != told[one]):
            of_version = f" of {version}" if version else ""
            text = f"the rows of {table.name}{of_version} are not those that were committed: a file is damaged"
            findings.append(problem("lake", text, restore(home)))
    return findings


def _lost_calls(lake: Any, home: Home) -> list[Finding]:
    """Of a home without a ledger they are all lost, if rows name any."""
    import polars as pl

    from cai_dagster.tables.registry import TABLES

    known = pl.Series("id", _calls_in(home), pl.String)
    any_named = False
    findings: list[Finding] = []
    for table in TABLES.values():
        lists = [
            f'"{name}"' if isinstance(table.schema[name], pl.List) else f'["{name}"]' for name in table.call_columns
        ]
        if not lists:
            continue
        # Imported completions were made elsewhere, and no call was paid for.
        own = "WHERE source <> 'imported'" if table.name == "response_pairs" else ""
        each = " UNION ALL ".join(f"SELECT unnest({one}) AS id FROM lake.{table.name} {own}" for one in lists)
        ids = lake.select(f"SELECT DISTINCT id FROM ({each}) WHERE id IS NOT NULL", {})["id"]
        any_named = any_named or len(ids) > 0
        lost = ids.filter(~ids.is_in(known.implode()))
        if len(lost):
            text = f"{table.name}: the ledger does not have {len(lost):,} of the calls its rows were made of"
            text += " (or the table is damaged: cai doctor --full tells)"
            ledger = "CAI_LEDGER" if home.shared_ledger else home.ledger
            remedy = f"Put the ledger back that they were paid into ({ledger}); without it they are paid for again."
            findings.append(problem("ledger", text, remedy))
    if any_named and not findings:
        return [good("ledger", "it has every call that a row of a table was made of")]
    return findings


def _calls_in(home: Home) -> list[str]:
    if home.shared_ledger:
        return [row[0] for row in open_ledger(home).read("SELECT request_id FROM calls", {})]
    if not home.ledger.exists():
        return []
    with reading(home.ledger) as connection:
        return [row[0] for row in connection.execute("SELECT request_id FROM calls")]


def _remembered(lake: Any, home: Home) -> list[Finding]:
    """Rows of prompts that were removed for good: a copy was put back, or another machine's run was under way."""
    forgotten = sorted(forgotten_prompts(home))
    ids = " UNION ".join(f"SELECT prompt_id FROM lake.{table}" for table in tables_with("prompt_id"))
    there = lake.select(f"SELECT prompt_id FROM ({ids}) WHERE list_contains($ids, prompt_id)", {"ids": forgotten})
    return [
        problem("lake", f"prompt {one} was removed for good, and is there again", f"cai forget {one}")
        for one in sorted(there["prompt_id"])
    ]


def _lost_checkpoints(lake: Any, home: Home) -> list[Finding]:
    from cai_dagster.tables.registry import TABLES

    findings: list[Finding] = []
    for table in TABLES.values():
        if table.maker != Maker.training:
            continue
        named = f"SELECT constitution_version, checkpoint_key, path FROM lake.{table.name}"
        for row in lake.select(named, {}).iter_rows(named=True):
            version, folder = row["constitution_version"], place_of_row(home, table.name, row)
            if not (folder / RECORD).exists():
                text = f"{table.name} of {version} names the checkpoint {folder}, which is not there"
                findings.append(problem("checkpoints", text, command_to_materialize(home, table.name, version)))
            elif folder not in checkpoint_folders(home, table.name, row["checkpoint_key"]):
                text = f"{table.name} of {version} uses a checkpoint outside this home: {folder}"
                place = checkpoint_folder(home, table.name, row["checkpoint_key"])
                room = f"rm -rf {quoted(place)} && mkdir -p {quoted(place.parent)}"
                copy = f"cp -r {quoted(folder)} {quoted(place)}"
                findings.append(warning("checkpoints", text, f"{room} && {copy}"))
    return findings
