"""Scratch folders belong to living processes; what the dead left is swept by the next one who needs some."""

import subprocess
import sys
from pathlib import Path

from cai_dagster.lake.scratch import new_scratch_folder, scratch_folder

LEAVE = (
    "import sys, pathlib; from cai_dagster.lake.scratch import new_scratch_folder as new; "
    "new(pathlib.Path(sys.argv[1]))"
)


def test_a_new_folder_sweeps_those_of_dead_processes_and_leaves_the_others(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LEAVE, str(tmp_path)], check=True)
    assert len(list(tmp_path.iterdir())) == 1
    mine = new_scratch_folder(tmp_path)
    with scratch_folder(tmp_path) as other:
        assert sorted(tmp_path.iterdir()) == sorted([mine, other])
    assert list(tmp_path.iterdir()) == [mine]
