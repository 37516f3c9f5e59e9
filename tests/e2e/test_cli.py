"""The command line on the real model's files: what is planned before anything runs, and what is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cai_dagster.home import Home
from cai_dagster.lake.lake import Lake
from cai_dagster.project import PROJECT

CAI = [str(Path(sys.executable).parent / "cai")]


@pytest.fixture
def run(home_with_model: Home) -> "Cai":
    return Cai(home_with_model)


class Cai:
    """`cai` in a home of its own, with the demo's settings."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "CAI_HOME": str(self.home.root), "CAI_PROFILE": "demo", "COLUMNS": "200"}
        environment["PYTHONPATH"] = str(PROJECT)
        return subprocess.run([*CAI, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_a_plan_as_json_has_every_stage_and_version_and_runs_nothing(run: "Cai") -> None:
    finished = run("plan", "--version", "v1", "--version", "v2", "--json")
    assert finished.returncode == 0, finished.stderr
    stages = json.loads(finished.stdout)["stages"]
    assert [(stage["asset"], stage["constitution_version"]) for stage in stages] == [
        ("initial_responses", None),
        *(
            (asset, version)
            for version in ("v1", "v2")
            for asset in ("revision_rounds", "response_pairs", "judgements", "calibration_judgements")
        ),
    ]
    fields = {"calls", "in_ledger", "new", "exact", "tokens_estimate", "seconds_estimate"}
    assert all(fields <= set(stage) for stage in stages)
    assert all(stage["calls"] == stage["in_ledger"] + stage["new"] for stage in stages)
    assert (stages[0]["new"], stages[0]["exact"]) == (48, True)
    calibrations = [stage for stage in stages if stage["asset"] == "calibration_judgements"]
    assert all(stage["exact"] and stage["calls"] == 0 for stage in calibrations)  # nobody has imported human pairs
    assert not any(stage["exact"] for stage in stages[1:] if stage not in calibrations)
    second = next(stage for stage in stages if stage["constitution_version"] == "v2")
    assert second["in_ledger"] > second["new"]  # what v1 pays for, v2 finds


def test_a_plan_for_people_marks_its_bounds(run: "Cai") -> None:
    shown = run("plan", "--version", "v1").stdout
    assert "≤" in shown
    assert "initial_responses" in shown
    assert "to be trained" in shown or "as earlier stages turn out" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("retry", "--table", "prompts", "--reason", "length"), "nothing has been made here yet"),
        (("plan", "--select", "nonsense"), "no plan for nonsense; --select takes constitution, prompts"),
        (("plan", "--version", "v77"), "there is no constitution version 'v77'"),
    ],
)
def test_a_mistake_is_one_sentence_and_no_traceback(run: "Cai", arguments: tuple[str, ...], said: str) -> None:
    finished = run(*arguments)
    assert finished.returncode == 1
    assert said in finished.stderr
    assert "Traceback" not in finished.stderr + finished.stdout


def test_preferences_are_imported_from_a_file_with_columns_of_ones_own(run: "Cai", tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    asked = "Human: Is it late?\n\nAssistant:"
    rows = [{"good": f"\n\n{asked} It is {hour}.", "bad": f"\n\n{asked} No idea."} for hour in range(20)]
    rows.append({"good": f"\n\n{asked} Yes."})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("--chosen", "good", "--rejected", "bad")
    finished = run("import", "preferences", str(file), *columns)
    assert finished.returncode == 0, finished.stderr
    assert "human_preferences: 20 rows, 1 rejected" in finished.stdout
    assert 'chosen_column = "good"' in finished.stdout
    pairs = Lake(run.home).snapshot("human_preferences").frame().to_dicts()
    assert {pair["prompt"][0]["content"] for pair in pairs} == {"Is it late?"}
    assert {pair["chosen"][0]["content"] for pair in pairs} == {f"It is {hour}." for hour in range(20)}

    described = run("import", "preferences", str(file), *columns, "--json")
    assert described.returncode == 0, described.stderr
    document = json.loads(described.stdout)
    assert set(document) == set(keys_of_the_page("cai import preferences"))
    assert (document["rows"], sum(document["rejected"].values())) == (20, 1)
    assert document["settings"]["chosen_column"] == "good"


def keys_of_the_page(command: str) -> dict[str, object]:
    """What docs/cli.md says of a command's JSON."""
    page = (PROJECT / "docs/cli.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"<!-- keys: {command} -->\n```json\n(.*?)```", page, flags=re.DOTALL)
    return json.loads(block)
