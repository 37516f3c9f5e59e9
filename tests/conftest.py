"""Fixtures for all tests: each test has a home of its own."""

from pathlib import Path

import pytest

from cai_dagster.home import Home
from tests.browser import browse
from tests.explained_home import make
from tests.hostile_lake import hostile_home

__all__ = ["browse", "home", "hostile_home"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty CAI_HOME that the environment names."""
    monkeypatch.setenv("CAI_HOME", str(tmp_path / "home"))
    return Home((tmp_path / "home").resolve())


@pytest.fixture(scope="session")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two versions of everything, for tests that only look."""
    return make(tmp_path_factory.mktemp("explained"))
