"""Rows as they were in any snapshot that can still be read, in one query: not one a snapshot.

A commit replaces all rows of its table (and version), so a row was there from the snapshot that wrote it (its
`snapshot_id`) until the next such commit. It knows no table but those it is asked about.
"""

from functools import cached_property

from cai_dagster.lake.reader import LakeReader


class LakeHistory:
    """What a lake has held since its earliest snapshot."""

    def __init__(self, reader: LakeReader) -> None:
        self._reader = reader

    @cached_property
    def snapshots(self) -> list[int]:
        """Those that can be read, the earliest first."""
        return [
            row["id"]
            for row in self._reader.rows("SELECT snapshot_id AS id FROM ducklake_snapshots('lake') ORDER BY id")
        ]

    @cached_property
    def _created(self) -> dict[str, int]:
        query = "SELECT table_name, begin_snapshot FROM __ducklake_metadata_lake.ducklake_table"
        return {row["table_name"]: row["begin_snapshot"] for row in self._reader.rows(query)}

    def ever(self, table: str, what: str = "*, snapshot_id", condition: str = "true") -> str:
        """SQL for rows of a table in any snapshot: those of the earliest, and those that were added since.

        Each row stands once; `snapshot_id` is that of the commit that wrote it. A column that is newer than the
        earliest snapshot is null there.
        """
        first, last = max(self.snapshots[0], self._created[table]), self.snapshots[-1]
        before = (
            f"SELECT {what} FROM lake.{table} AT (VERSION => {first}) WHERE snapshot_id < {first} AND ({condition})"
        )
        added = f"ducklake_table_insertions('lake', 'main', '{table}', {first}, {last})"
        return f"{before} UNION ALL BY NAME SELECT {what} FROM {added} WHERE {condition}"
