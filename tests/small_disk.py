"""The scripted graph on a file system that gets full, and again once there is room."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cai_dagster.home import Home
from cai_dagster.project import PROJECT

SCRIPT = """
mount -t tmpfs -o size={small}k none {disk} || exit 77
{command} > {folder}/first.log 2>&1; echo $? > {folder}/first.status
mount -o remount,size=500m {disk}
{command} > {folder}/second.log 2>&1; echo $? > {folder}/second.status
cp -a {disk}/. {after}
"""


def graph_on_a_small_disk(folder: Path, small: int, prompts: Path) -> tuple[Home, str]:
    """Run it on `small` KiB, where it fails with a clear line, then with room enough; the home, and the first log."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, to mount a small file system")
    disk, after, script = folder / "disk", folder / "after", folder / "script"
    disk.mkdir()
    after.mkdir()
    command = f"{sys.executable} -m tests.fault_workloads graph {prompts} v1 0.01"
    script.write_text(SCRIPT.format(small=small, disk=disk, after=after, folder=folder, command=command))
    isolated = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    environment = {**os.environ, "CAI_HOME": str(disk / "home"), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([*isolated, "bash", str(script)], env=environment, cwd=PROJECT, check=False)
    if not (folder / "first.status").exists():
        pytest.skip(f"a tmpfs cannot be mounted here (exit status {done.returncode})")
    first = (folder / "first.log").read_text()
    assert (folder / "first.status").read_text() == "1\n"
    assert "DiskFullError: no space left on the file system of" in first
    assert (folder / "second.status").read_text() == "0\n", (folder / "second.log").read_text()[-3000:]
    return Home(after / "home"), first
