"""The lake: every table of the project, in DuckLake (Parquet files and a catalog of snapshots).

One way in, which is here: `Lake.stage`, then `Lake.commit`, which replaces a table (or one constitution version of
it), its rejected rows and its account in one transaction. Reading is in `snapshot_tables`: all of a commit or nothing.
It knows the tables' shapes from `tables`, nothing of what they mean, and nothing of Dagster.
"""

# pyright: reportMissingTypeStubs=false

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from cai_dagster.disk import copy_file, full_disk_named, moved
from cai_dagster.lake.catalog import in_transaction
from cai_dagster.lake.catalog_database import commit_lock, widen_text_bounds
from cai_dagster.lake.connection import LakeError, is_conflict, literal, retry_conflicts
from cai_dagster.lake.forgotten_prompts import forgotten_ids
from cai_dagster.lake.queries import literals, of_prompts
from cai_dagster.lake.scratch import remove_scratch_folder
from cai_dagster.lake.snapshot_tables import SnapshotTables
from cai_dagster.lake.snapshots import FORGET_RUN, Account
from cai_dagster.lake.staging import StagedRows
from cai_dagster.tables.registry import TABLES
from cai_dagster.tables.table import Table


class Lake(SnapshotTables):
    """The tables in one home, to read and to replace.

    Not for use by several threads at once; by several processes, yes.
    """

    def stage(self, table: str, constitution_version: str | None = None) -> StagedRows:
        """An empty set of rows to fill for `table`; nothing is visible before `commit`."""
        _ = self._connection
        return StagedRows(self._home.staging, table, constitution_version)

    def data_version(self, staged: StagedRows) -> str:
        """A hash of the staged rows that does not depend on their order."""
        if not staged.parts:
            return "empty"
        return self._counted(f"read_parquet({literals(staged.parts)}, hive_partitioning = false)")[1]

    def commit(self, staged: StagedRows, account: Account) -> int:
        """Replace the table's rows (of the staged version) by the staged ones, in one transaction; the snapshot id.

        Raises LakeError, and changes nothing, when two staged rows have the same key.
        """
        self._refuse_duplicate_keys(staged)

        def replace() -> None:
            # In the lock: expiry, which holds it too, finds no file that is moved in and not committed yet; what is
            # forgotten before it is left out here, what is forgotten after it is removed then.
            files = self._move_in(staged.table, staged.parts)
            rejected_files = self._move_in(TABLES["rejected_rows"], staged.rejected_parts)
            self._replace(staged.table, staged.constitution_version, files)
            self._replace_rejected(staged, rejected_files)
            counts = (self._rows_in(files), self._rows_in(rejected_files))
            self._append_account(staged.table.name, staged.constitution_version, counts, account)

        snapshot_id = self._transaction(replace)
        remove_scratch_folder(staged.folder)
        return snapshot_id

    def commit_rejected(self, staged: StagedRows) -> None:
        """Keep the rejected rows of a failed materialization, and the table as it was."""

        def replace() -> None:
            files = self._move_in(TABLES["rejected_rows"], staged.rejected_parts)
            self._replace_rejected(staged, files)

        self._transaction(replace)
        remove_scratch_folder(staged.folder)

    def append(self, table: str, *rows: Mapping[str, Any]) -> None:
        """Add rows to a table whose rows are appended, such as check_results."""

        def insert() -> None:
            for row in rows:
                self._insert(table, row)

        self._transaction(insert)

    def delete(self, conditions: Mapping[str, str]) -> int:
        """Delete the rows of tables that fulfil a condition in SQL, in one transaction; the snapshot id.

        A table (of a version) that loses rows gets an account of those that it still has: its rows are other ones now.
        """

        def delete() -> None:
            for name, condition in conditions.items():
                table = TABLES[name]
                version = "constitution_version" if table.versioned else "NULL"
                affected = f"SELECT DISTINCT {version} FROM lake.{name} WHERE {condition} ORDER BY 1"
                versions = [row[0] for row in self._connection.execute(affected).fetchall()]
                self._connection.execute(f"DELETE FROM lake.{name} WHERE {condition}")
                if name != "rejected_rows":
                    for one in versions:
                        self._append_account_of_the_rest(table, one)

        return self._transaction(delete)

    def _append_account_of_the_rest(self, table: Table, constitution_version: str | None) -> None:
        columns = ", ".join(f'"{name}"' for name in table.schema)
        rows = f"SELECT {columns} FROM lake.{table.name}"
        if constitution_version is not None:
            rows += f" WHERE constitution_version = {literal(constitution_version)}"
        count, data_version = self._counted(f"({rows})")
        of_table = "table_name = ? AND constitution_version IS NOT DISTINCT FROM ?"
        rejected = f"SELECT count(*) FROM lake.rejected_rows WHERE {of_table}"
        (set_aside,) = self._connection.execute(rejected, [table.name, constitution_version]).fetchall()[0]
        account = Account(FORGET_RUN, data_version)
        self._append_account(table.name, constitution_version, (count, set_aside), account)

    def expire_snapshots(self) -> int:
        """Forget every snapshot but the current, and remove from disk what only they had; how many there were.

        Files that still hold deleted rows are written anew without them, and no text stays in the catalog's statistics.
        Nothing else may be using the lake: what it was handed would be gone.
        """
        with commit_lock(self._home):
            retry_conflicts(
                lambda: self._connection.execute("CALL ducklake_rewrite_data_files('lake', delete_threshold => 0)")
            )
            # By their numbers and not by their times, which another clock may have given.
            past = "SELECT snapshot_id FROM lake.snapshots() WHERE snapshot_id < $current ORDER BY 1"
            expired: list[int] = self.select(past, {"current": self.current_snapshot()})["snapshot_id"].to_list()
            expire = f"CALL ducklake_expire_snapshots('lake', versions => {expired})"
            if expired:
                retry_conflicts(lambda: self._connection.execute(expire))
            for clean in ("cleanup_old_files", "delete_orphaned_files"):  # no commit is under way: the lock is held
                statement = f"CALL ducklake_{clean}('lake', cleanup_all => true)"
                retry_conflicts(lambda statement=statement: self._connection.execute(statement))
            self.close()
            widen_text_bounds(self._home)
        return len(expired)

    def widen_text_bounds(self) -> None:
        """Make filters on text columns find every row again, where the catalog's bounds leave some out."""
        with commit_lock(self._home):
            self.close()
            retry_conflicts(lambda: widen_text_bounds(self._home))

    def _transaction(self, work: Callable[[], None]) -> int:
        """Run `work` in a transaction, as a whole again when another process got in between; the snapshot id.

        A server that goes away during COMMIT leaves open whether it committed: the snapshot's message tells, so that
        nothing is committed twice.
        """
        mark = uuid.uuid4().hex
        tried = False

        def marked() -> None:
            work()
            self._connection.execute(f"CALL lake.set_commit_message('cai_dagster', '{mark}')")

        def attempt() -> int:
            nonlocal tried
            try:
                if tried:
                    same = f"SELECT snapshot_id FROM lake.snapshots() WHERE commit_message = '{mark}'"
                    if done := self._connection.execute(same).fetchall():
                        return done[0][0]
                tried = True
                in_transaction(self._connection, marked)
            except duckdb.Error as error:
                if is_conflict(error):
                    self.close()
                raise
            return self._connection.execute("FROM lake.last_committed_snapshot()").fetchall()[0][0]

        with full_disk_named(self._home.root), commit_lock(self._home):
            return retry_conflicts(attempt)

    def _replace(self, table: Table, constitution_version: str | None, files: list[Path]) -> None:
        if table.versioned:
            delete = f"DELETE FROM lake.{table.name} WHERE constitution_version = ?"
            self._connection.execute(delete, [constitution_version])
        else:
            self._connection.execute(f"DELETE FROM lake.{table.name}")
        self._register(table.name, files)

    def _replace_rejected(self, staged: StagedRows, files: list[Path]) -> None:
        delete = "DELETE FROM lake.rejected_rows WHERE table_name = ? AND constitution_version IS NOT DISTINCT FROM ?"
        self._connection.execute(delete, [staged.table.name, staged.constitution_version])
        self._register("rejected_rows", files)

    def _register(self, table: str, files: list[Path]) -> None:
        for file in files:
            # A home may lie below a folder called name=value: that is no partition.
            call = f"CALL ducklake_add_data_files('lake', '{table}', {literal(file)}, hive_partitioning => false)"
            self._connection.execute(call)

    def _append_account(
        self, table: str, constitution_version: str | None, counts: tuple[int, int], account: Account
    ) -> None:
        """`counts`: of rows, and of rows set aside."""
        rows, rejected = counts
        values = {
            "table_name": table,
            "constitution_version": constitution_version,
            "run_id": account.run_id,
            "materialized_at": datetime.now(UTC).replace(tzinfo=None),
            "read_at": self.current_snapshot() if account.read_at is None else account.read_at,
            "rows": rows,
            "rejected": rejected,
            "data_version": account.data_version,
            "ledger_hits": account.ledger_hits,
            "ledger_misses": account.ledger_misses,
            "prompt_tokens": account.prompt_tokens,
            "completion_tokens": account.completion_tokens,
            "cached_tokens": account.cached_tokens,
            "seconds": account.seconds,
            "engine_seconds": account.engine_seconds,
            "model_id": account.model_id,
        }
        self._insert("materializations", values)

    def _insert(self, table: str, values: Mapping[str, Any]) -> None:
        places = ", ".join("?" for _ in values)
        columns = ", ".join(f'"{name}"' for name in values)
        self._connection.execute(f"INSERT INTO lake.{table} ({columns}) VALUES ({places})", list(values.values()))

    def _move_in(self, table: Table, parts: list[Path]) -> list[Path]:
        """Move staged files to where DuckLake keeps the table's files, without rows of forgotten prompts.

        If the transaction then fails they stay there, registered nowhere and so invisible. Taking them back would be
        wrong where the failure came after the commit.
        """
        folder = self._home.tables / "main" / table.name
        places = [(part, folder / f"{part.parent.name}-{part.name}") for part in parts]
        # One that is there was moved by an attempt before this one, which met another process.
        missing = [(part, place) for part, place in places if not place.exists()]
        self._leave_out_forgotten(table, [part for part, _ in missing])
        if not self._home.tables_are_local:
            for part, place in missing:
                copy_file(part, place)
        elif missing:
            folder.mkdir(parents=True, exist_ok=True)
            for part, place in missing:
                moved(part, place)
        return [place for _, place in places]

    def _leave_out_forgotten(self, table: Table, files: list[Path]) -> None:
        """Write files anew that hold rows of forgotten prompts, without them."""
        ids = forgotten_ids(self._home)
        which = of_prompts(table, ids) if ids else None
        for file in files if which else ():
            rows = f"read_parquet({literal(file)}, hive_partitioning = false)"
            (held,) = self._connection.execute(f"SELECT count(*) FROM {rows} WHERE {which}").fetchall()[0]
            if held:
                anew = file.with_suffix(".anew")
                self._connection.execute(f"COPY (FROM {rows} WHERE NOT ({which})) TO {literal(anew)} (FORMAT parquet)")
                anew.replace(file)

    def _rows_in(self, files: list[Path]) -> int:
        if not files:
            return 0
        query = f"SELECT sum(num_rows)::BIGINT FROM parquet_file_metadata({literals(files)})"
        return self._connection.execute(query).fetchall()[0][0]

    def _refuse_duplicate_keys(self, staged: StagedRows) -> None:
        if not staged.parts:
            return
        key = ", ".join(f'"{column}"' for column in staged.table.key)
        rows = f"read_parquet({literals(staged.parts)}, hive_partitioning = false)"
        query = f"SELECT {key}, count(*) FROM {rows} GROUP BY {key} HAVING count(*) > 1 LIMIT 3"
        duplicates = self._connection.execute(query).fetchall()
        if duplicates:
            raise LakeError(f"{staged.table.name}: several rows have the key ({key}), for example {duplicates}")
