"""The servers of tests of shared storage: started once for a test process, where Debian's postgresql is installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cai_dagster.home import Home
from tests.object_storage import ObjectStorage, share
from tests.postgresql import PostgreSqlServer, is_installed


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSqlServer]:
    """A real PostgreSQL server."""
    if not is_installed():
        pytest.skip("needs Debian's postgresql and requirements/postgres.txt")
    started = PostgreSqlServer()
    yield started
    started.remove()


@pytest.fixture(scope="session")
def storage() -> Iterator[ObjectStorage]:
    """A real S3 server."""
    started = ObjectStorage()
    yield started
    started.pause()


@pytest.fixture
def host(server: PostgreSqlServer, storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home whose catalog, ledger, data and checkpoints are on the servers; nothing is there yet either."""
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "home"))
    share(monkeypatch, server.new_database(), storage.new_bucket(), storage)
    return Home((tmp_path / "home").resolve())
