"""Where everything a project produces lies on disk: one folder, `CAI_HOME` (default `.cai` in the project).

Only paths belong here; what is inside the files is the business of `ledger`, `lake` and `checkpoints`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cai_dagster.errors import MendableError

PROJECT = Path(__file__).resolve().parent.parent
CONSTITUTIONS = PROJECT / "constitutions"


class HomeError(MendableError):
    """There can be no home in that place; the message says why."""


@dataclass(frozen=True)
class Home:
    """The folder of one project's tables, ledger, models and Dagster instance."""

    root: Path

    @staticmethod
    def from_environment() -> "Home":
        """The home that `CAI_HOME` names; a relative path counts from the project folder.

        Raises HomeError where that is a file.
        """
        root = (PROJECT / os.environ.get("CAI_HOME", ".cai")).resolve()
        if root.is_file():
            raise HomeError(f"CAI_HOME names {root}, which is a file; it has to be a folder, or not there yet")
        return Home(root)

    @property
    def catalog(self) -> Path:
        """The DuckLake catalog (SQLite): which Parquet files make up which snapshot of which table."""
        return self.root / "catalog.sqlite"

    @property
    def tables(self) -> Path:
        """The Parquet files of the lake; written and removed by DuckLake alone."""
        return self.root / "tables"

    @property
    def staging(self) -> Path:
        """Rows on their way into the lake. Nothing reads it but the run that wrote it."""
        return self.root / "staging"

    @property
    def ledger(self) -> Path:
        """The ledger of model calls (SQLite).

        A file of its own: two copies of the SQLite library in one process (Python's and DuckDB's) on one database
        file drop each other's POSIX locks (sqlite.org/howtocorrupt.html, section 2.2.1).
        """
        return self.root / "ledger.sqlite"

    @property
    def shared_ledger(self) -> str | None:
        """The PostgreSQL database (`postgresql://…`) that `CAI_LEDGER` names: a ledger that many hosts share."""
        return os.environ.get("CAI_LEDGER") or None

    @property
    def forgotten(self) -> Path:
        """The ids of the prompts that must not come back (`cai forget`), one a line."""
        return self.root / "forgotten_prompts.txt"

    @property
    def models(self) -> Path:
        """Checkpoints trained here (`models/<asset>/<key>/`) and the prepared offline model (`models/offline/`)."""
        return self.root / "models"

    @property
    def model_digests(self) -> Path:
        """The hashes of models' files, by their folder, sizes and times: what was hashed once is not read again."""
        return self.root / "model_digests.json"

    @property
    def reports(self) -> Path:
        """Reports, one HTML file a constitution version."""
        return self.root / "reports"

    @property
    def dagster(self) -> Path:
        """`DAGSTER_HOME` of this project's instance."""
        return self.root / "dagster"

    @property
    def failures(self) -> Path:
        """A line for each run that failed, where the sensor `failed_runs` is on."""
        return self.root / "failures.jsonl"

    @property
    def accelerator_lock(self) -> Path:
        """Held by the one process that has a model loaded."""
        return self.root / "accelerator.lock"
