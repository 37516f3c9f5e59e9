"""The servers of tests of shared storage: started once for a test process, where Debian's postgresql is installed."""

from collections.abc import Iterator

import pytest

from tests.object_storage import ObjectStorage
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
