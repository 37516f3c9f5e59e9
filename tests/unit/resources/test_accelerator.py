"""One model on an accelerator at a time: a GPU belongs to one process of the machine, whatever its home."""

import subprocess
import sys
from pathlib import Path

import pytest

from cai_dagster.home import Home
from cai_dagster.models import hardware
from resources import accelerator
from resources.accelerator import ACCELERATOR

HOLD = """
import sys
from cai_dagster.lake.leases import hold
from pathlib import Path
hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


def test_the_locks_are_those_of_the_gpus_for_the_whole_machine_and_of_the_home_without_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert accelerator._locks() == [home.accelerator_lock]
    monkeypatch.setattr(accelerator, "visible_gpus", lambda: ["0", "1"])
    of_this_home = accelerator._locks()
    monkeypatch.setenv("CAI_HOME", str(home.root / "other"))
    assert accelerator._locks() == of_this_home
    assert [lock.name for lock in of_this_home] == ["cai_dagster-gpu-0.lock", "cai_dagster-gpu-1.lock"]


def test_the_gpus_are_those_that_the_environment_leaves_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert hardware.visible_gpus() == ["1", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware.visible_gpus() == []


def test_a_process_of_another_home_waits_for_the_gpu(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "LOCKS_OF_GPUS", tmp_path)
    monkeypatch.setattr(accelerator, "visible_gpus", lambda: ["0"])
    lock = tmp_path / "cai_dagster-gpu-0.lock"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    said: list[str] = []

    def let_the_other_end(line: str) -> None:
        said.append(line)
        other.communicate("\n")

    with ACCELERATOR.reserved(let_the_other_end):
        assert said == [f"another process has a model loaded ({lock} is locked); waiting for it to finish"]
        assert other.returncode == 0
