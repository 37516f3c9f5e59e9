"""The lake, for commands that only read it."""

from typing import TYPE_CHECKING

from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake.catalog_database import is_begun

if TYPE_CHECKING:
    from cai_dagster.lake.lake import Lake


def lake_to_read() -> "Lake":
    """The lake of this home. Raises HomeError or MendableError where there is none yet: it is not made."""
    from cai_dagster.lake.lake import Lake
    from cai_dagster.lake.reader import has_committed_files

    home = Home.existing()
    if not (is_begun(home) or has_committed_files(home)):
        raise MendableError(f"{home.root}: nothing has been made here yet; `cai run` and `cai demo` make a version")
    return Lake(home)
