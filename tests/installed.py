"""The package as `pip install` puts it: a wheel in an environment of its own, and a project folder elsewhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from cai_dagster.project import CHECKOUT

SOURCES = ("assets", "cai_dagster", "constitutions", "prompts", "requirements", "resources")
FILES = ("LICENSE", "README.md", "pyproject.toml", "settings.toml", "workspace.yaml")
SCRIPTED = """
from cai_dagster.commands import cli, dagster_process, run
dagster_process.GRAPH, run.setup = "tests.scripted_location", lambda: None
cli.app()
"""


class Installed:
    """An environment with the wheel, beside the packages of this one; and a project folder below it."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "mine"
        self.python = folder / "venv" / "bin" / "python"
        self._tests = folder / "with_tests"
        source = folder / "source"
        for name in SOURCES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(CHECKOUT / name, source / name, symlinks=True, ignore=ignored)
        for name in FILES:
            shutil.copy(CHECKOUT / name, source)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        built = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
        subprocess.run([*pip, *built], check=True, capture_output=True)
        (self.wheel,) = folder.glob("*.whl")
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        # As a path alone: what is installed for development there, with a .pth file of its own, is not seen.
        (site / "pinned.pth").write_text(sysconfig.get_path("purelib"))
        install = ["install", "--no-deps", "--no-index", str(self.wheel)]
        subprocess.run([self.python, "-m", "pip", *install], check=True, capture_output=True)
        shutil.copytree(CHECKOUT / "tests", self._tests / "tests", ignore=shutil.ignore_patterns("__pycache__"))

    @property
    def environment(self) -> dict[str, str]:
        """Of somebody who has set nothing."""
        named = ("CAI_", "DAGSTER_", "PYTHONPATH")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(named)}
        return {**inherited, "PYTHONPATH": str(self._tests), "COLUMNS": "200"}

    def run(self, *command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.python), *command], cwd=cwd, env=self.environment, capture_output=True, text=True, check=False
        )

    def cai(self, *arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return self.run("-c", SCRIPTED, *arguments, cwd=cwd or self.project)
