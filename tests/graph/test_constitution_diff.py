"""Two versions through the real graph with a scripted model: judged, compared, and shown by the command."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from cai_dagster.commands import cli
from cai_dagster.compare import version_tables
from cai_dagster.compare.version_tables import VersionsError, diff_versions
from cai_dagster.home import Home
from cai_dagster.lake.snapshots import Account
from cai_dagster.project import PROJECT
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import TABLES
from resources.lake import open_lake
from tests.explained_home import copied
from tests.hostile import HOSTILE, LONG_LINE
from tests.labelled_home import QUESTIONS, LabelledHome, label_two_versions
from tests.scripted_graph import WITHOUT_TRAINING, materialize, metadata, write_prompts

COMPARISON = ["version_judgements", "constitution_diff"]
SETTINGS = active_settings().constitution_diff


@pytest.fixture
def config(home: Home, labelled: LabelledHome) -> dict[str, Any]:
    """The config that has made the two versions in the test's home."""
    copied(labelled.home, home.root)
    return labelled.config


def test_a_version_is_judged_against_the_one_before_and_compared(home: Home, config: dict[str, Any]) -> None:
    result = materialize(COMPARISON, config, version="v2")
    lake = open_lake(home)
    judged = lake.snapshot("version_judgements", "v2").frame()
    made = diff_versions(lake, "v1", "v2", PROJECT / "constitutions", SETTINGS)
    assert made.completions is not None
    assert 0 < made.completions.changed < made.completions.compared == 120
    # Both orders, under the principles of both versions; what they share is asked once.
    assert judged.height == 4 * made.completions.changed
    assert set(judged["against"]) == {"v1"}
    assert set(judged["judged_by"]) == {"v1", "v2"}
    paid = metadata(result, "version_judgements")
    shared = judged.group_by("prompt_id", "principle_id", "order").len().filter(pl.col("len") == 2).height
    assert (paid["ledger_hits"], paid["ledger_misses"]) == (shared, judged.height - shared)
    assert [(rate.judged_by, rate.pairs) for rate in made.win_rates] == [
        ("v1", made.completions.changed),
        ("v2", made.completions.changed),
    ]
    rows = lake.snapshot("constitution_diff", "v2").frame()
    assert rows.height == len(made.to_rows())
    summary = metadata(result, "constitution_diff")["diff"].replace("\\", "")
    assert "1 edited, 15 unchanged" in summary
    assert "Under the principles of v2" in summary
    assert [change.change for change in made.principles] == ["edited"]
    shared_rows = {change.table: change.shared for change in made.tables}
    assert shared_rows["revision_rounds"] == 480 - lake.count(
        "FROM one JOIN two USING (prompt_id, sample, round) WHERE one.revision <> two.revision",
        one=lake.snapshot("revision_rounds", "v1"),
        two=lake.snapshot("revision_rounds", "v2"),
    )
    again = materialize(["version_judgements"], config, version="v2")
    assert metadata(again, "version_judgements")["ledger_misses"] == 0


def test_versions_are_compared_alike_in_many_parts_and_in_one(
    home: Home, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    materialize(COMPARISON, config, version="v2")
    lake = open_lake(home)
    settings = SETTINGS.model_copy(update={"examples": 4})
    in_one = diff_versions(lake, "v1", "v2", PROJECT / "constitutions", settings)
    monkeypatch.setattr(version_tables, "ROWS_AT_ONCE", 40)
    in_many = diff_versions(lake, "v1", "v2", PROJECT / "constitutions", settings)
    assert in_one.labels is not None
    assert in_many == in_one
    assert in_one.completions is not None
    assert len(in_one.completions.examples) == 4


def test_reward_models_and_policies_are_read_from_the_lake(home: Home) -> None:
    for name in ("v1", "v2"):
        materialize(["constitution"], {}, version=name)
    lake = open_lake(home)
    score = {"checkpoint_key": "ab", "pairs": 20, "accuracy": 0.6, "log_loss": 0.6, "constant_log_loss": 0.7}
    score |= {"brier_score": 0.2, "calibration_error": 0.1, "longer_wins_accuracy": 0.5, "slice": "all"}
    rate = {"policy": "dpo_model", "opponent": "all", "prompts": 9, "win_rate": 0.4, "p_better": 0.4, "identical": 0.0}
    for table, row in (("reward_model_evaluation", score), ("policy_evaluation", rate)):
        staged = lake.stage(table, "v2")
        staged.add([{**dict.fromkeys(TABLES[table].schema), **row, "constitution_version": "v2"}])
        staged.close()
        lake.commit(staged, Account("run", lake.data_version(staged)))
    made = diff_versions(lake, "v1", "v2", PROJECT / "constitutions", SETTINGS)
    assert [(one.slice, one.before, one.after and one.after.accuracy) for one in made.reward_model] == [
        ("all", None, 0.6)
    ]
    assert [(one.policy, one.before, one.after and one.after.win_rate) for one in made.policies] == [
        ("dpo_model", None, 0.4)
    ]
    summary = metadata(materialize(["constitution_diff"], {}, version="v2"), "constitution_diff")["diff"]
    assert "40.0% of 9" in summary.replace("\\", "")
    rows = lake.snapshot("constitution_diff", "v2").frame()
    assert {"reward_model", "policy"} <= set(rows["section"])


def test_the_first_version_has_none_before_it_and_any_may_be_named(home: Home, config: dict[str, Any]) -> None:
    result = materialize(COMPARISON, config, version="v1")
    assert "first version" in metadata(result, "constitution_diff")["against"]
    assert open_lake(home).snapshot("constitution_diff", "v1").frame().height == 0
    named = {**config, "version_judgements": {"against": "v2", "max_pairs": 3}, "constitution_diff": {"against": "v2"}}
    materialize(COMPARISON, named, version="v1")
    judged = open_lake(home).snapshot("version_judgements", "v1").frame()
    assert judged["pair_id"].n_unique() == 3
    assert set(open_lake(home).snapshot("constitution_diff", "v1").frame()["against"]) == {"v2"}
    larger = {**config, "version_judgements": {"against": "v2", "max_pairs": 6}}
    materialize(["version_judgements"], larger, version="v1")
    more = open_lake(home).snapshot("version_judgements", "v1").frame()
    assert set(judged["pair_id"]) < set(more["pair_id"])


def test_a_version_that_nobody_made_is_a_failure_that_says_so(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", ["one", "two"]), "sft_dataset": {"min_rows": 1}}
    materialize(WITHOUT_TRAINING[:-1], config, version="v2")
    result = materialize(["version_judgements"], config, version="v2", raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "not been materialized for constitution version 'v1'" in str(failure.step_failure_data.user_failure_data)
    with pytest.raises(VersionsError, match="the same version"):
        diff_versions(open_lake(home), "v2", "v2", PROJECT / "constitutions", SETTINGS)


def test_the_command_writes_a_page_prints_json_and_names_what_is_nowhere(
    home: Home, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = CliRunner()
    made = run.invoke(
        cli.app, ["diff", "v1", "v2", "--json", "--examples", "2", "--html", str(tmp_path / "a" / "d.html")]
    )
    assert made.exit_code == 0
    found = json.loads(made.stdout)
    assert [principle["slug"] for principle in found["principles"]] == ["crisis-care"]
    assert len(found["completions"]["examples"]) == 2
    page = (tmp_path / "a" / "d.html").read_text()
    assert "crisis-care" in page
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/\d+/\w+", "", page)  # names of SVG's elements
    shown = run.invoke(cli.app, ["diff", "v1", "v2"])
    assert "final revisions are other ones" in shown.stdout
    assert run.invoke(cli.app, ["diff", "v1", "v77"]).exit_code == 1
    asked: list[Any] = []
    monkeypatch.setattr("cai_dagster.commands.dagster_process.materialize", lambda *arguments: asked.append(arguments))
    assert run.invoke(cli.app, ["diff", "v1", "v2", "--judge"]).exit_code == 0
    assert asked == [("version_judgements", "v2", {"version_judgements": {"against": "v1"}})]
    alone = run.invoke(cli.app, ["diff", "v2", "--json"])
    assert (json.loads(alone.stdout)["before"], json.loads(alone.stdout)["after"]) == ("v1", "v2")
    assert run.invoke(cli.app, ["diff", "v1"]).exit_code == 1


def test_a_wrong_name_is_found_before_anything_is_judged(
    home: Home, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    materialize(["version_judgements"], config, version="v2")
    asked: list[Any] = []
    monkeypatch.setattr("cai_dagster.commands.dagster_process.materialize", lambda *arguments: asked.append(arguments))
    for before, after in (("v2", "v2"), ("v1", "v77"), ("v77", "v2")):
        assert CliRunner().invoke(cli.app, ["diff", before, after, "--judge"]).exit_code == 1
    assert asked == []
    itself = {**config, "version_judgements": {"against": "v2"}}
    result = materialize(["version_judgements"], itself, version="v2", raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "v2 and v2 are the same version" in str(failure.step_failure_data.user_failure_data)
    assert set(open_lake(home).snapshot("version_judgements", "v2").frame()["against"]) == {"v1"}


def test_hostile_texts_pass_through_the_metadata_as_text(home: Home, tmp_path: Path) -> None:
    texts = [text for text in HOSTILE if text != LONG_LINE]
    config = label_two_versions(tmp_path, [*texts, *QUESTIONS[:20]])
    # One edit moves few rows: have the versions differ everywhere, so that every text is an example.
    config["revision_rounds"] = {"rounds": 1, "seed": 7}
    materialize(["revision_rounds"], config, version="v2")
    config["constitution_diff"] = {"examples": 100}
    summary = metadata(materialize(["constitution_diff"], config, version="v2"), "constitution_diff")["diff"]
    assert "<" not in summary.replace("\\<", "")
    assert "\x1b" not in summary
    run = CliRunner().invoke(cli.app, ["diff", "v1", "v2", "--examples", "100"])
    assert run.exit_code == 0
    assert "\x1b" not in run.stdout
    assert "\u202e" not in run.stdout
    assert "[bold]markup[/bold]" in run.stdout
