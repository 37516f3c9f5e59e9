"""The graph with a scripted model: what goes in, what comes out, what is set aside, what is paid for."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.common.failures import LONGEST_DESCRIPTION
from cai_dagster.calls import row_stream
from cai_dagster.calls.ledger import Ledger
from cai_dagster.checks.settings import CheckOverride, Severity
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.judging.settings import JudgingMethod
from cai_dagster.lake.connection import LakeError
from cai_dagster.lake.lake import Lake
from cai_dagster.project import PROJECT
from cai_dagster.settings import active_settings
from resources.lake import SNAPSHOT_TAG, RunTables, open_lake
from tests.hostile import HOSTILE, LONG_LINE
from tests.lake_rows import commit, responses
from tests.scripted_graph import (
    WITHOUT_TRAINING,
    bound_of_rejected_rows,
    materialize,
    metadata,
    pretend_trained,
    write_prompts,
)

LATER = ["response_pairs", "judgements", "preference_pairs"]
SMALL: dict[str, Any] = {"sft_dataset": {"min_rows": 1}}


def test_every_stage_fills_its_table(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(40)]), **SMALL}
    result = materialize(WITHOUT_TRAINING, config)
    pretend_trained(home, tmp_path / "checkpoint")
    materialize(LATER, config)
    lake = open_lake(home)
    prompts = lake.snapshot("prompts").frame()
    rounds = lake.snapshot("revision_rounds", "v1").frame()
    assert prompts.height == 40
    assert rounds.height == 40 * 4
    assert set(rounds["principle_id"]) <= set(lake.snapshot("constitution", "v1").frame()["principle_id"])
    judged = prompts.filter(prompts["split"] != "sft").height
    assert lake.snapshot("judgements", "v1").frame().height == 2 * judged
    pairs = lake.snapshot("preference_pairs", "v1").frame()
    assert pairs.height == judged
    chosen, rejected = pairs["chosen"].list.first().struct["content"], pairs["rejected"].list.first().struct["content"]
    assert (chosen < rejected).all()  # what the scripted judge prefers, in whichever order it saw them
    shown = metadata(result, "revision_rounds")
    assert shown["ledger_misses"] == 40 * 4 * 2
    assert shown["dagster/partition_row_count"] == 160
    assert shown["dagster/table_name"] == "lake.revision_rounds"
    assert shown["snapshot_id"] > 0
    assert {"dagster/column_schema", "dagster/uri", "preview", "completion_tokens_per_second", "seconds"} <= set(shown)


@pytest.mark.parametrize("method", JudgingMethod)
def test_every_judging_method_fills_its_table_and_labels_pairs(
    home: Home, tmp_path: Path, method: JudgingMethod
) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(20)]), **SMALL}
    config["judgements"] = {"method": method.value, "principles_per_pair": 2}
    config["response_pairs"] = {"source": "revisions"}
    materialize(WITHOUT_TRAINING, config)
    pretend_trained(home, tmp_path / "checkpoint")
    materialize(LATER, config)
    lake = open_lake(home)
    pairs, judged = (lake.snapshot(table, "v1").frame() for table in ("response_pairs", "judgements"))
    rows_per_pair = {"one_principle": 4, "several_principles": 2, "rationale": 4, "scoring": 2, "direct": 1}[method]
    assert judged.height == rows_per_pair * pairs.height > 0
    assert set(judged["method"]) == {method.value}
    assert (judged["rationale"].null_count() == 0) == (method == JudgingMethod.rationale)
    assert (judged["score_0"].null_count() == 0) == (method == JudgingMethod.scoring)
    principles = set(lake.snapshot("constitution", "v1").frame()["principle_id"])
    assert set(judged["principle_ids"].explode()) <= principles
    again = materialize(["judgements"], config)
    assert metadata(again, "judgements")["ledger_misses"] == 0
    if method == JudgingMethod.direct:
        labelled = lake.snapshot("preference_pairs", "v1").frame().join(pairs, on="pair_id")
        assert labelled.height == pairs.height
        assert (labelled["chosen"].list.first().struct.field("content") == labelled["completion_1"]).all()
        assert set(labelled["p_chosen"]) == {1.0}


def test_another_label_policy_needs_no_model_and_is_another_data_version(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(20)]), **SMALL}
    materialize(WITHOUT_TRAINING, config)
    pretend_trained(home, tmp_path / "checkpoint")
    materialize(LATER, config)
    calls = Ledger(home.ledger).totals()
    versions: set[str] = set()
    for policy in ("soft", "hard", "clamped", "agreement_only"):
        config["preference_pairs"] = {"label_policy": policy, "ensemble": "dominant", "clamp_at": 0.7}
        result = materialize(["preference_pairs"], config)
        (event,) = result.asset_materializations_for_node("preference_pairs")
        versions.add(event.tags["dagster/data_version"])
        (text,) = open_lake(home).snapshot("preference_pairs", "v1").frame()["label_policy"].unique()
        assert text == metadata(result, "preference_pairs")["label_policy"]
        assert text.startswith(policy)
        assert text.endswith("/dominant")
    assert len(versions) == 4
    assert Ledger(home.ledger).totals() == calls


def test_text_is_data_in_every_table(home: Home, tmp_path: Path) -> None:
    ordinary = [f"question {n}" for n in range(20)]
    hostile = [text for text in HOSTILE if text != LONG_LINE]  # no prompt of a million characters
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [*hostile, *ordinary, "null \0 byte"]), **SMALL}
    config["prompts"]["sft_share"] = 0.98
    config["prompts"]["preference_share"] = 0.01
    materialize(WITHOUT_TRAINING, config)
    lake = open_lake(home)
    turns = lake.snapshot("prompts").frame()["messages"].list.first().struct["content"].to_list()
    assert sorted(turns) == sorted([*hostile, *ordinary])
    examples = lake.snapshot("sft_dataset", "v1").frame()["messages"].list.first().struct["content"].to_list()
    assert set(examples) == {*hostile, *ordinary}
    (rejected,) = lake.rejected("prompts").to_dicts()
    assert "null byte" in rejected["reason"]

    pretend_trained(home, tmp_path / "checkpoint")
    config["prompts"] |= {"sft_share": 0.01, "preference_share": 0.98}
    materialize(["prompts", *LATER], config)
    asked = lake.snapshot("preference_pairs", "v1").frame()["prompt"].list.first().struct["content"].to_list()
    assert set(asked) == {*hostile, *ordinary}


def test_a_second_run_pays_for_nothing_and_gives_the_same_data_versions(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(12)]), **SMALL}
    first = materialize(WITHOUT_TRAINING, config)
    second = materialize(WITHOUT_TRAINING, config)
    assert metadata(first, "revision_rounds")["ledger_misses"] == 12 * 8
    assert metadata(second, "revision_rounds")["ledger_misses"] == 0
    assert metadata(second, "revision_rounds")["ledger_hits"] == 12 * 8

    def versions(result: dg.ExecuteInProcessResult) -> list[str]:
        events = [result.asset_materializations_for_node(asset)[0] for asset in WITHOUT_TRAINING]
        return [event.tags["dagster/data_version"] for event in events]

    assert versions(first) == versions(second)


def test_a_version_that_edits_one_principle_pays_only_for_its_rows(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(200)]), **SMALL}
    config["revision_rounds"] = {"rounds": 1}
    materialize(WITHOUT_TRAINING, config)
    second = materialize(["constitution", "revision_rounds"], config, version="v2")
    lake = open_lake(home)
    one, two = (lake.snapshot("revision_rounds", version).frame() for version in ("v1", "v2"))
    changed = (one["principle_id"] != two["principle_id"]).sum()
    assert 0 < changed < 200 / 4
    assert metadata(second, "revision_rounds")["ledger_misses"] == 2 * changed


def test_a_row_without_an_answer_is_set_aside_and_the_rest_goes_on(home: Home, tmp_path: Path) -> None:
    texts = [*(f"question {n}" for n in range(30)), "say nothing"]
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", texts), **SMALL}
    materialize(WITHOUT_TRAINING, config, silent_on="say nothing")
    lake = open_lake(home)
    assert lake.snapshot("initial_responses").frame().height == 30
    (rejected,) = lake.rejected("initial_responses").to_dicts()
    assert rejected["reason"].startswith("empty_completion: initial_responses")
    assert "say nothing" in rejected["row"]


def test_too_many_rejected_rows_fail_the_asset_and_are_kept_with_their_reasons(home: Home, tmp_path: Path) -> None:
    texts = [*(f"question {n}" for n in range(4)), "say nothing"]
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", texts), **SMALL}
    result = materialize(WITHOUT_TRAINING, config, raise_on_error=False, silent_on="say nothing")
    assert not result.success
    (failure,) = [
        event for event in result.all_events if event.is_step_failure and event.step_key == "initial_responses"
    ]
    assert "1 × empty_completion" in str(failure.step_failure_data.user_failure_data)
    lake = open_lake(home)
    assert not lake.materialized("initial_responses")
    assert lake.rejected("initial_responses").height == 1


def test_an_invalid_constitution_fails_only_its_own_partition(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("v1", "v2"):
        (tmp_path / f"{version}.yaml").write_text((PROJECT / f"constitutions/{version}.yaml").read_text())
    with (tmp_path / "v2.yaml").open("a") as file:
        file.write("surprise: 1\n")
    monkeypatch.setattr("assets.constitution.CONSTITUTIONS", tmp_path)
    assert materialize(["constitution"], {}, version="v1").success
    result = materialize(["constitution"], {}, version="v2", raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "v2.yaml:" in str(failure.step_failure_data.user_failure_data)
    assert "surprise" in str(failure.step_failure_data.user_failure_data)


def test_a_failure_shows_a_files_text_as_text(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even in the exceptions behind it, which Dagster writes down with it."""
    good = (PROJECT / "constitutions/v1.yaml").read_text()
    (tmp_path / "v1.yaml").write_text(good + '"\\e[31mred\\u202eleft": 1\n' + "".join(f"k{n}: 1\n" for n in range(90)))
    monkeypatch.setattr("assets.constitution.CONSTITUTIONS", tmp_path)
    result = materialize(["constitution"], {}, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    kept = failure.step_failure_data
    description = kept.user_failure_data.description
    assert r"\x1b[31mred\u202eleft" in description
    assert description.endswith("…")
    assert len(description) < LONGEST_DESCRIPTION + 20  # it is cut before escapes make it longer
    texts = [description, kept.error.to_string(), failure.message or ""]
    assert {character for text in texts for character in text if not character.isprintable()} <= {"\n"}


def test_too_few_examples_are_a_failure_that_says_what_to_do(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(20)])}
    result = materialize(WITHOUT_TRAINING, config, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_key == "sft_dataset"
    assert "min_rows" in str(failure.step_failure_data.user_failure_data)


def test_first_and_last_responses_make_pairs_without_a_model_call(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(30)]), **SMALL}
    config["response_pairs"] = {"source": "revisions"}
    config["initial_responses"] = {"samples": 2}
    materialize(WITHOUT_TRAINING, config)
    pretend_trained(home, tmp_path / "checkpoint")
    materialize(["response_pairs"], config)
    lake = open_lake(home)
    pairs = lake.snapshot("response_pairs", "v1").frame()
    assert set(pairs["source"]) == {"revisions"}
    first = lake.snapshot("initial_responses").frame()
    assert set(pairs["completion_0"]) <= set(first["completion"])
    assert all("revision_rounds/revision 4" in text for text in pairs["completion_1"])


def test_a_killed_run_goes_on_where_the_ledger_ends(home: Home, tmp_path: Path) -> None:
    texts = [f"question {n}" for n in range(60)]
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", texts), **SMALL}
    materialize(["constitution", "prompts", "initial_responses"], config)
    ledger = Ledger(home.ledger)
    arguments = [sys.executable, "-m", "tests.scripted_graph", str(tmp_path / "p.jsonl"), "0.6", "revision_rounds"]
    environment = {**os.environ, "CAI_HOME": str(home.root)}
    process = subprocess.Popen(arguments, cwd=PROJECT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while sum(ledger.totals().values()) <= len(texts) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    committed = sum(ledger.totals().values()) - len(texts)
    assert 0 < committed < 60 * 8
    lake = open_lake(home)
    assert not lake.materialized("revision_rounds", "v1")
    result = materialize(["revision_rounds"], config)
    shown = metadata(result, "revision_rounds")
    assert shown["ledger_hits"] == committed
    assert shown["ledger_misses"] == 60 * 8 - committed
    rounds = lake.snapshot("revision_rounds", "v1").frame()
    assert rounds.height == rounds.unique(["prompt_id", "sample", "round"]).height == 60 * 4


def test_each_run_of_a_check_is_a_row_of_check_results(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(12)]), **SMALL}
    runs = [materialize(WITHOUT_TRAINING, config).run_id, materialize(["revision_rounds"], config).run_id]
    lake = open_lake(home)
    results = lake.select("FROM lake.check_results ORDER BY checked_at", {})
    unchanged = results.filter(pl.col("check_name") == "unchanged_revisions").to_dicts()
    assert [one["run_id"] for one in unchanged] == runs
    accounts = lake.select("FROM lake.materializations WHERE table_name = 'revision_rounds'", {})
    (data_version,) = accounts["data_version"].unique()
    for one in unchanged:
        assert one["constitution_version"] == "v1"
        assert (one["passed"], one["severity"], one["value"], one["bounds"]) == (True, "ERROR", 0.0, "at most 0.1")
        assert one["rows"] == 12 * 4
        assert one["data_version"] == data_version
    (rejected,) = results.filter(table_name="prompts", check_name="rejected_share").to_dicts()
    assert rejected["constitution_version"] is None
    assert rejected["rows"] == 12


def test_a_run_reads_what_it_began_with_whatever_others_commit_meanwhile(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [f"question {n}" for n in range(12)]
    materialize(["prompts"], {"prompts": write_prompts(tmp_path / "p.jsonl", questions)})
    of_the_run = open_lake(home).snapshot("prompts").frame()
    others = write_prompts(tmp_path / "others.jsonl", ["another question"])
    run_rows = row_stream.run_rows

    def replaced_before_the_revisions(*arguments: Any) -> None:
        if arguments[4].table.name == "revision_rounds":
            materialize(["prompts"], {"prompts": others})
        run_rows(*arguments)

    monkeypatch.setattr(row_stream, "run_rows", replaced_before_the_revisions)
    run = materialize([asset for asset in WITHOUT_TRAINING if asset != "prompts"], SMALL)
    lake = open_lake(home)
    assert lake.snapshot("prompts").frame().height == 1
    assert set(lake.snapshot("revision_rounds", "v1").frame()["prompt_id"]) == set(of_the_run["prompt_id"])
    learned = of_the_run.filter(pl.col("split") == "sft")["prompt_id"]
    assert set(lake.snapshot("sft_dataset", "v1").frame()["prompt_id"]) == set(learned)
    assert run.dagster_run.run_id in set(lake.select("FROM lake.materializations", {})["run_id"])


def test_a_run_reads_what_it_made_itself_and_not_what_another_made_of_it_since(home: Home, tmp_path: Path) -> None:
    lake = open_lake(home)
    own = commit(lake, "initial_responses", responses("own"))
    commit(lake, "initial_responses", responses("of another run"), run="another")
    read = RunTables(lake, "run", began_at=0)
    assert read.snapshot("initial_responses").snapshot_id == own
    assert read.snapshot("initial_responses").frame()["completion"].to_list() == ["own"]
    assert RunTables(lake, "a third", began_at=own).snapshot("initial_responses").snapshot_id == own
    with pytest.raises(
        LakeError, match=r"initial_responses had not been materialized when this run began \(snapshot 0\)"
    ):
        RunTables(lake, "a third", began_at=0).snapshot("initial_responses")


@pytest.mark.parametrize("tags", [{}, {SNAPSHOT_TAG: "1"}])
def test_a_run_notes_the_snapshot_that_it_reads_and_one_given_at_launch_counts(
    home: Home, tags: dict[str, str]
) -> None:
    lake = open_lake(home)
    now = commit(lake, "initial_responses", responses("a"))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_run(dg.DagsterRun(job_name="job", run_id="run", tags=tags))
        began_at = RunTables.of(instance, "run").began_at
        assert began_at == int(tags.get(SNAPSHOT_TAG, now))
        commit(lake, "initial_responses", responses("b"))
        assert RunTables.of(instance, "run").began_at == began_at
        noted = instance.get_run_by_id("run")
        assert noted is not None
        assert noted.tags[SNAPSHOT_TAG] == str(began_at)


def test_steps_that_begin_at_the_same_moment_read_the_same_snapshot(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, lake_of_another_run = open_lake(home), Lake(home)
    commit(lake, "initial_responses", responses("a"))
    read, read_again = threading.Event(), threading.Event()
    current_snapshot = lake.current_snapshot

    def slowly() -> int:
        snapshot = current_snapshot()
        if read.is_set():
            read_again.set()
        read.set()
        read_again.wait(2)  # in vain: the other step waits until it is noted
        return snapshot

    monkeypatch.setattr(lake, "current_snapshot", slowly)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.add_run(dg.DagsterRun(job_name="job", run_id="run"))

        def begin() -> int:
            return RunTables.of(instance, "run").began_at

        def begin_after_another_run() -> int:
            read.wait()
            commit(lake_of_another_run, "initial_responses", responses("of another run"))
            return begin()

        with ThreadPoolExecutor() as threads:
            steps = [threads.submit(step) for step in (begin, begin_after_another_run)]
            assert steps[0].result() == steps[1].result()


def test_a_snapshot_tag_that_is_no_number_is_refused(home: Home) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_run(dg.DagsterRun(job_name="job", run_id="run", tags={SNAPSHOT_TAG: "yesterday"}))
        with pytest.raises(MendableError, match="tag cai/snapshot of the run: 'yesterday' is not the number"):
            RunTables.of(instance, "run")


def test_too_many_rejected_rows_leave_the_table_as_it_was(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.jsonl"
    materialize(["prompts"], {"prompts": write_prompts(file, [f"question {n}" for n in range(12)])})
    with file.open("a") as more:
        more.write('{"prompt": "another question"}\n{"prompt": ""}\n')
    failed = materialize(["prompts"], {"prompts": {"sources": [str(file)]}}, raise_on_error=False)
    assert not failed.success
    lake = open_lake(home)
    assert lake.snapshot("prompts").frame().height == 12
    assert [row["row_id"] for row in lake.rejected("prompts").to_dicts()] == ["p.jsonl:14"]
    bound_of_rejected_rows(monkeypatch, 0.05, Severity.WARN)
    warned = materialize(["prompts"], {"prompts": {"sources": [str(file)]}})
    assert lake.snapshot("prompts").frame().height == 13
    (check,) = [one for one in warned.get_asset_check_evaluations() if one.check_name == "rejected_share"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_a_version_is_compared_with_the_one_before_and_held_to_its_own_bounds(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(30)]), **SMALL}
    settings = active_settings()
    own = {"v2": CheckOverride(at_most=-1.0, severity=Severity.WARN)}  # nothing is as good as that
    checks = settings.checks.model_copy(
        update={"unchanged_revisions": settings.checks.unchanged_revisions.model_copy(update={"versions": own})}
    )
    monkeypatch.setattr("assets.checks.active_settings", lambda: settings.model_copy(update={"checks": checks}))
    materialize(WITHOUT_TRAINING, config)
    second = materialize(["constitution", "revision_rounds"], config, version="v2")
    results = open_lake(home).select("FROM lake.check_results WHERE table_name = 'revision_rounds'", {})
    unchanged = results.filter(check_name="unchanged_revisions").sort("constitution_version")
    assert unchanged.select("passed", "severity", "bounds").rows() == [
        (True, "ERROR", "at most 0.1"),
        (False, "WARN", "at most -1"),
    ]
    first_drift, second_drift = results.filter(check_name="drift").sort("constitution_version").to_dicts()
    assert first_drift["value"] is None
    assert first_drift["passed"]
    assert second_drift["value"] < 0.1
    assert second_drift["rows"] >= 5
    (evaluation,) = [one for one in second.get_asset_check_evaluations() if one.check_name == "unchanged_revisions"]
    assert evaluation.partition == "v2"
    assert evaluation.metadata["bound"].value == "at most -1"
    assert "revision_rounds of constitution version v2: measured 0 over 120" in (evaluation.description or "")
    assert "the critique found nothing" in (evaluation.description or "")


def test_a_check_that_fails_shows_rows_with_their_texts_as_a_table(home: Home, tmp_path: Path) -> None:
    config = {"prompts": write_prompts(tmp_path / "p.jsonl", [f"question {n}" for n in range(30)]), **SMALL}
    result = materialize(WITHOUT_TRAINING, config)
    (evaluation,) = [
        one
        for one in result.get_asset_check_evaluations()
        if (one.asset_key.path[-1], one.check_name) == ("revision_rounds", "shared_phrase")
    ]
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    examples = evaluation.metadata["examples"]
    assert isinstance(examples, dg.TableMetadataValue)
    record = examples.records[0].data
    assert record["phrase"].startswith("revision_rounds revision 4")
    assert record["answer"].startswith("revision_rounds/revision 4")
    assert record["row"].startswith("share 1, prompts ")
    assert evaluation.metadata["value"].value == 1
    assert next(iter(record)) == "row"
