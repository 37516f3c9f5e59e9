"""Fixtures for all tests: each test has a home of its own. What is slow to import is imported by who uses it."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from cai_dagster.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty CAI_HOME that the environment names."""
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "home"))
    return Home((tmp_path / "home").resolve())


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test session that all of its processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def explained(shared_folder: Path) -> Home:
    """Two versions of everything, for tests that only look; made once, by the process that first asks for it."""
    from tests.explained_home import make

    folder = shared_folder / "explained"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            return make(folder)
    return Home((folder / "home").resolve())
