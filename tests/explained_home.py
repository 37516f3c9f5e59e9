"""A home with two versions of everything, made by the real graph with scripted models and trainers: to be explained.

After version v1's models were trained its pairs were labelled anew, so that they are not the rows that its reward model
saw. `python -m tests.explained_home FOLDER` fills CAI_HOME; FOLDER is for the files that are read.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cai_dagster.home import Home
from cai_dagster.project import PROJECT
from tests.hostile import HOSTILE, LONG_LINE

QUESTIONS = [*(f"question {number}?" for number in range(24)), *(text for text in HOSTILE if text != LONG_LINE)]


def make(folder: Path) -> Home:
    """The home, made by a process of its own: the trainers are replaced there for good."""
    home = Home((folder / "home").resolve())
    subprocess.run(
        [sys.executable, "-m", "tests.explained_home", str(folder)],
        cwd=PROJECT,
        env={**os.environ, "CAI_HOME": str(home.root), "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        check=True,
    )
    return home


def copied(home: Home, folder: Path) -> Home:
    """A home of its own with the same in it, for a test that changes it."""
    shutil.copytree(home.root, folder)
    return Home(folder.resolve())


def fill(folder: Path) -> None:
    """Materialize both versions, then label v1 anew."""
    from cai_dagster.definitions import POLICY_OPTIMIZATION
    from tests.fault_workloads import EVERYTHING, script_the_trainers
    from tests.scripted_graph import materialize, write_prompts

    script_the_trainers()
    people = folder / "people.jsonl"
    pairs = [{"prompt": f"asked {n}", "chosen": f"a good answer {n}", "rejected": f"bad answer {n}"} for n in range(8)]
    people.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config: dict[str, Any] = {
        "prompts": {**write_prompts(folder / "prompts.jsonl", QUESTIONS), "sft_share": 0.3, "preference_share": 0.5},
        "human_preferences": {"sources": [str(people)]},
        "revision_rounds": {"rounds": 2},
        "sft_dataset": {"min_rows": 1},
        "reward_model": {"min_pairs": 1, "human_weight": 1.0},
        "dpo_model": {"min_pairs": 1},
        "rlaif_model": {"min_prompts": 1},
        "best_of_n_candidates": {"n": 2},
        "policy_evaluation": {"resamples": 200},
    }
    stages = ["human_preferences", *EVERYTHING, "calibration_judgements", "judge_calibration"]
    materialize(stages, config, voice="steady")
    materialize([asset.key.to_user_string() for asset in POLICY_OPTIMIZATION], config, voice="steady")
    materialize([name for name in stages if name != "human_preferences"], config, version="v2", voice="steady")
    config["preference_pairs"] = {"label_policy": "hard"}
    materialize(["preference_pairs"], config, voice="steady")


if __name__ == "__main__":
    fill(Path(sys.argv[1]))
