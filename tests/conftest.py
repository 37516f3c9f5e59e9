"""Fixtures for all tests: each test has a home of its own. What is slow to import is imported by who uses it.

Tests that run side by side share the cores: each process computes with one thread, so that none waits for another's.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from cai_dagster.home import Home

if TYPE_CHECKING:
    from tests.labelled_home import LabelledHome

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported, here or by a process that a test starts
    os.environ["OMP_NUM_THREADS"] = "1"

# The home of who develops here may be of another profile than `default`: a test that names no home has an empty one.
os.environ.setdefault("CAI_HOME", tempfile.mkdtemp(prefix="cai-home-"))

WITH_THE_ENGINE = {f"tests/e2e/test_{name}.py" for name in ("calibration", "engines", "judging", "real_graph")}


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests run in one process, in their order; so do those of all files that share the session's engine."""
    from xdist.scheduler.loadfile import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "engine" if file in WITH_THE_ENGINE else file

    return Scheduling(config, log)


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


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> "LabelledHome":
    """Two versions up to their labels, for tests that copy them."""
    from tests.labelled_home import make

    return make(tmp_path_factory.mktemp("labelled"))
