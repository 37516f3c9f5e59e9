"""The lake in PostgreSQL and object storage keeps every promise that it keeps in a folder: the same tests.

Beside them what only shared storage can do: be away for a while, and be used by hosts that begin at the same moment.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cai_dagster.home import Home
from tests.object_storage import ObjectStorage, share
from tests.postgresql import PostgreSqlServer, is_installed
from tests.unit.lake.test_lake import *  # noqa: F403  (the same tests)

pytestmark = pytest.mark.skipif(not is_installed(), reason="needs Debian's postgresql and requirements/postgres.txt")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSqlServer]:
    started = PostgreSqlServer()
    yield started
    started.remove()


@pytest.fixture(scope="module")
def storage() -> Iterator[ObjectStorage]:
    started = ObjectStorage()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def shared_home(
    server: PostgreSqlServer, storage: ObjectStorage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    """In place of the home of the tests of `test_lake`."""
    with pytest.MonkeyPatch.context() as patch:
        share(patch, server.new_database(), storage.new_bucket(), storage)
        yield Home(tmp_path_factory.mktemp("lake"))


@pytest.fixture
def home(server: PostgreSqlServer, storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "home"))
    share(monkeypatch, server.new_database(), storage.new_bucket(), storage)
    return Home((tmp_path / "home").resolve())


# About the files of one home.
del test_a_catalog_that_cannot_be_read_is_named_with_what_to_do  # noqa: F821
del test_a_catalog_whose_making_was_cut_short_is_made_again  # noqa: F821
del test_plain_duckdb_reads_the_rows  # noqa: F821
del test_a_home_may_have_any_name  # noqa: F821
