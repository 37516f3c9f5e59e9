"""Where everything a project produces lies: in one folder, `CAI_HOME` (default `.cai`), and where hosts share it.

Only places belong here; what is inside is the business of `ledger`, `lake` and `checkpoints`. What `[storage]` of
settings.toml, or the environment, names instead of a place in the home is shared by all hosts that name it.
"""

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from cai_dagster.errors import MendableError
from cai_dagster.project import PROJECT, SETTINGS_FILE, refuse_outside_a_project

STORAGE = {
    "catalog": "CAI_CATALOG",
    "ledger": "CAI_LEDGER",
    "data": "CAI_DATA",
    "checkpoints": "CAI_CHECKPOINTS",
}
"""The keys of `[storage]` in settings.toml, and the environment variables that go before them."""
PAGES_ADDRESS = "CAI_PAGES"
"""The environment variable with the address at which `cai ui` serves the pages in `reports`."""
_DATABASES = ("catalog", "ledger")


class HomeError(MendableError):
    """There can be no home in that place; the message says why."""


@dataclass(frozen=True)
class Home:
    """The folder of one project's tables, ledger, models and Dagster instance."""

    root: Path

    @staticmethod
    def from_environment() -> "Home":
        """The home that `CAI_HOME` names; a relative path counts from the project folder.

        Raises ProjectError outside of a project, and HomeError where it names a file.
        """
        refuse_outside_a_project()
        root = (PROJECT / os.environ.get("CAI_HOME", ".cai")).resolve()
        if root.is_file():
            raise HomeError(f"CAI_HOME names {root}, which is a file; it has to be a folder, or not there yet")
        for what in STORAGE:
            shared_place(what)
        return Home(root)

    @staticmethod
    def existing() -> "Home":
        """As `from_environment`, for who only reads.

        Raises HomeError where `CAI_HOME` names a folder that is not there.
        """
        home = Home.from_environment()
        if "CAI_HOME" in os.environ and not home.root.is_dir() and home.shared_catalog is None:
            there = ", ".join(str(folder) for folder in _homes_near(home.root)) or "none beside it or in the project"
            raise HomeError(f"CAI_HOME names {home.root}, which is not there; homes that are: {there}")
        return home

    @property
    def catalog(self) -> Path:
        """The DuckLake catalog (SQLite): which Parquet files make up which snapshot of which table."""
        return self.root / "catalog.sqlite"

    @property
    def shared_catalog(self) -> str | None:
        """The PostgreSQL database (`postgresql://…`) of a catalog that many hosts share."""
        return shared_place("catalog")

    @property
    def tables(self) -> Path:
        """The Parquet files of the lake; written and removed by DuckLake alone. On object storage a `UPath`."""
        return _path(self.tables_named)

    @property
    def tables_named(self) -> str:
        """The place of `tables` as text: the packages for object storage take half a second to import."""
        return (shared_place("data") or str(self.root / "tables")).rstrip("/")

    @property
    def tables_are_local(self) -> bool:
        """Whether the lake's files are on a file system, and not on object storage."""
        return not self.tables_named.startswith("s3:")

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
        """The PostgreSQL database (`postgresql://…`) of a ledger that many hosts share."""
        return shared_place("ledger")

    @property
    def forgotten(self) -> Path:
        """The ids of the prompts that must not come back (`cai forget`), one a line, where no database is shared."""
        return self.root / "forgotten_prompts.txt"

    @property
    def models(self) -> Path:
        """Checkpoints on this machine (`models/<asset>/<key>/`) and the prepared offline model (`models/offline/`)."""
        return self.root / "models"

    @property
    def shared_checkpoints(self) -> Path | None:
        """Where complete checkpoints are for all hosts. On object storage a `UPath`."""
        place = shared_place("checkpoints")
        return _path(place) if place else None

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
    def profile(self) -> Path:
        """The profile of the settings that this home is made with; on a second line its model, where one was named."""
        return self.root / "profile"

    @property
    def failures(self) -> Path:
        """A line for each run that failed, where the sensor `failed_runs` is on."""
        return self.root / "failures.jsonl"

    @property
    def accelerator_lock(self) -> Path:
        """Held by the one process that has a model loaded."""
        return self.root / "accelerator.lock"


def _homes_near(folder: Path) -> list[Path]:
    """The homes in the project and beside a folder."""
    beside = {one for parent in (PROJECT, folder.parent) if parent.is_dir() for one in parent.iterdir()}
    return sorted(one for one in beside if (one / "dagster").is_dir() or (one / "catalog.sqlite").is_file())


def shared_place(what: str) -> str | None:
    """The URL or folder that `[storage]` or its environment variable names for a key of STORAGE; None: in the home.

    Raises HomeError where that is neither a URL that can be used nor an absolute folder.
    """
    variable = STORAGE[what]
    named = os.environ.get(variable)
    place, where = (named, variable) if named else (_storage_section().get(what), f"{SETTINGS_FILE}: [storage.{what}]")
    if not place:
        return None
    url = urlsplit(place)
    if where != variable and url.password:
        raise HomeError(
            f"{where} holds a password; keep it in PGPASSWORD or ~/.pgpass, or name the place in {variable}"
        )
    if what in _DATABASES:
        if not url.scheme:
            raise HomeError(f"{where} is no URL of a database; write postgresql://user@host/database")
        if url.scheme.split("+")[0] != "postgresql":
            raise HomeError(f"{where} names a database of {url.scheme}; one that hosts share is one of PostgreSQL")
    elif url.scheme != "s3" and not Path(place).is_absolute():
        raise HomeError(f"{where} is {place!r}; write s3://bucket/prefix, or the absolute path of a shared folder")
    return place


@cache
def _storage_section() -> dict[str, str]:
    try:
        section: Any = tomllib.loads(SETTINGS_FILE.read_text(encoding="utf-8")).get("storage", {})
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return {}  # `load_settings` says what is wrong with the file
    if not isinstance(section, dict):
        raise HomeError(f"{SETTINGS_FILE}: storage is a value; it has to be a table, [storage]")
    for name, place in cast("dict[str, Any]", section).items():
        if name not in STORAGE or not isinstance(place, str):
            raise HomeError(f"{SETTINGS_FILE}: [storage.{name}]: there are {', '.join(STORAGE)}, each a text")
    return cast("dict[str, str]", section)


@cache
def _path(place: str) -> Path:
    if not place.startswith("s3://"):
        return Path(place)
    try:
        import s3fs  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport, reportMissingTypeStubs]
        from upath import UPath
    except ModuleNotFoundError:
        install = "pip install --no-deps -r requirements/s3.txt"
        raise HomeError(f"{place} needs the packages for object storage: {install}") from None
    # It has the methods of a Path. Listings are not kept: other hosts write there too. A store that is away for half a
    # minute is waited for.
    retries = {"retries": {"max_attempts": 10, "mode": "standard"}}
    return cast("Path", UPath(place, use_listings_cache=False, config_kwargs=retries))
