"""Plan, status, export, trace and forget where hosts share catalog, ledger and data: the tests of one home's files.

The servers are real: PostgreSQL and an S3 server. The home that is looked at has made nothing itself.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from tests import run_again
from tests.explained_home import make
from tests.graph import test_cost_plan, test_forget, test_status, test_trace
from tests.object_storage import ObjectStorage, share
from tests.postgresql import PostgreSqlServer
from tests.unit.exports import test_datasets


@pytest.fixture(scope="module")
def place(server: PostgreSqlServer, storage: ObjectStorage) -> tuple[str, str]:
    """The database and the bucket of `explained`."""
    return server.new_database(), storage.new_bucket()


@pytest.fixture(scope="module")
def explained(
    place: tuple[str, str], storage: ObjectStorage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    """Another home than the one that made what is in the store."""
    with pytest.MonkeyPatch.context() as patch:
        share(patch, *place, storage)
        make(tmp_path_factory.mktemp("explained"))
        home = Home(tmp_path_factory.mktemp("another").resolve())
        patch.setenv("CAI_HOME", str(home.root))
        yield home


@pytest.fixture
def home(host: Home) -> Home:
    """In place of the home of the tests that are run again."""
    return host


@pytest.fixture
def mine(
    explained: Home,
    place: tuple[str, str],
    server: PostgreSqlServer,
    storage: ObjectStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    """A copy of database and bucket to remove things from."""
    database, bucket = place
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "mine"))
    share(monkeypatch, server.restored(database), storage.copied(bucket), storage)
    return Home((tmp_path / "mine").resolve())


@pytest.fixture(scope="module")
def lake(server: PostgreSqlServer, storage: ObjectStorage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """In place of the lake of the tests of exports."""
    with pytest.MonkeyPatch.context() as patch:
        share(patch, server.new_database(), storage.new_bucket(), storage)
        yield test_datasets.filled(Lake(Home(tmp_path_factory.mktemp("lake"))))


config = test_cost_plan.config
expired = test_forget.expired

# All that take a place where rows are: `home` is empty, `lake` has a version, `explained` and `mine` have two.
globals().update(run_again.using({"home", "lake"}, test_cost_plan, test_status, test_datasets))
globals().update(run_again.using({"explained", "mine", "expired"}, test_trace, test_forget))
