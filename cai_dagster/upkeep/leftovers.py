"""What no reader looks at: files that no snapshot names, and scratch folders of ended processes."""

# pyright: reportMissingTypeStubs=false

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import commit_lock, is_begun
from cai_dagster.lake.connection import LakeError
from cai_dagster.lake.scratch import abandoned
from cai_dagster.upkeep.catalog import catalog_files, examine_catalog, files_named
from cai_dagster.upkeep.findings import MEND, Finding, good, warning

ORPHAN_SECONDS = 3_600.0  # a file that came later may belong to a commit that is under way


@dataclass(frozen=True)
class Leftovers:
    """What no reader looks at: files in no snapshot, and folders of processes that have ended."""

    orphans: tuple[Path, ...]
    scratch: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Together."""
        files = [*self.orphans, *(file for folder in self.scratch for file in folder.rglob("*"))]
        return sum(file.stat().st_size for file in files if file.is_file())


def leftovers(home: Home) -> Leftovers:
    """What `remove_leftovers` would remove now."""
    return Leftovers(tuple(_orphans(home)), tuple(abandoned(home.staging)))


def remove_leftovers(home: Home) -> Leftovers:
    """Remove files that no snapshot names, an hour after they came, and scratch folders of ended processes.

    The lake's lock is held meanwhile, so that no commit is between moving its files in and naming them.
    """
    if not home.root.exists():
        return Leftovers((), ())
    with commit_lock(home):
        found = leftovers(home)
        for file in found.orphans:
            file.unlink(missing_ok=True)
        for folder in found.scratch:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def examine_leftovers(home: Home) -> list[Finding]:
    """What is left over in a home, and what removes it."""
    found = leftovers(home)
    findings: list[Finding] = []
    if found.orphans:
        text = f"{len(found.orphans):,} files of tables that no snapshot names: {files_named(found.orphans)}"
        findings.append(warning("lake", text, MEND))
    if found.scratch:
        text = f"{len(found.scratch):,} scratch folders of processes that have ended: {files_named(found.scratch)}"
        findings.append(warning("staging", text, f"{MEND} (or any command that opens the lake)"))
    return findings or [good("staging", "nothing left over")]


def _orphans(home: Home) -> list[Path]:
    """Parquet files in the tables' folder that the catalog does not name, and that are no commit under way.

    Their age counts from when they were moved there: a row may have been staged hours before its commit.
    """
    if examine_catalog(home) or not is_begun(home):
        return []  # then nobody knows what is named, and everything would be an orphan
    try:
        named = {file.path for file in catalog_files(home)}
    except LakeError:
        return []
    if not named:
        return []  # another catalog than theirs: a copy of the right one may be put back
    oldest = time.time() - ORPHAN_SECONDS
    unnamed = (file for file in home.tables.rglob("*.parquet") if file not in named)
    return sorted(file for file in unnamed if _came_at(home, file) < oldest)


def _came_at(home: Home, file: Path) -> float:
    """When it was moved or uploaded there."""
    stat = file.stat()
    return stat.st_ctime if home.tables_are_local else stat.st_mtime
