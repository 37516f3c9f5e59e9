"""What runs by itself: tried with Dagster's own evaluation of conditions, sensors and their contexts."""

import json
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from assets.automation import changed_prompts, failed_checks, failed_runs
from assets.common.partitions import constitution_versions
from cai_dagster.definitions import ASSETS, build_definitions
from cai_dagster.home import Home
from cai_dagster.settings import SETTINGS_FILE, load_settings
from cai_dagster.tables.registry import selection_of_required_assets
from cai_dagster.upkeep.alerts import send
from resources.lake import open_lake
from tests.misbehaving_server import free_port
from tests.scripted_graph import materialize

INPUTS = ("prompts", "initial_responses", "human_preferences")
FIRST_STAGES = {"constitution", "calibration_judgements", "revision_rounds"}


class Automation:
    """The graph on an instance of its own, one evaluation of all conditions after the other."""

    def __init__(self, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance, self._monkeypatch, self._cursor = instance, monkeypatch, None
        self.graph = build_definitions().resolve_asset_graph()

    def versions(self, *versions: str) -> None:
        """As if these were the files in constitutions/, and definitions had been reloaded."""
        self._monkeypatch.setattr(constitution_versions, "_partition_keys", list(versions))

    def made(self, asset: str, version: str | None = None, failed: str = "") -> None:
        """As if the asset had been materialized, and its checks had passed but for one."""
        key = dg.AssetKey(asset)
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=version))
        (record,) = self.instance.fetch_materializations(key, limit=1).records
        target = AssetCheckEvaluationTargetMaterializationData(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        for check in self.graph.get_check_keys_for_assets({key}):
            event = dg.AssetCheckEvaluation(
                asset_key=key,
                check_name=check.name,
                passed=check.name != failed,
                target_materialization_data=target,
                blocking=self.graph.get(check).blocking,
                partition=version,
            )
            self.instance.report_runless_asset_event(event)

    def requested(self) -> set[tuple[str, str | None]]:
        """What one evaluation of the sensor's target asks for."""
        target = dg.AssetSelection.from_string(selection_of_required_assets())
        result = dg.evaluate_automation_conditions(
            build_definitions(), self.instance, asset_selection=target, cursor=self._cursor
        )
        self._cursor = result.cursor
        return {
            (one.key.to_user_string(), version)
            for one in result.results
            if isinstance(one.key, dg.AssetKey)
            for version in result.get_requested_partitions(one.key)
        }


@pytest.fixture
def automation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Automation]:
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Automation(instance, monkeypatch)
        graph.versions("v1", "v2")
        for asset in INPUTS:
            graph.made(asset)
        yield graph


def test_a_new_version_is_begun_once_and_old_ones_are_left_alone(automation: Automation) -> None:
    assert automation.requested() == set()
    automation.versions("v1", "v2", "v3")
    assert automation.requested() == {(asset, "v3") for asset in FIRST_STAGES}
    assert automation.requested() == set()
    automation.made("constitution", "v1")
    automation.made("prompts")
    assert automation.requested() == set()


def test_a_new_version_goes_on_stage_by_stage_to_the_end_without_what_is_on_demand(automation: Automation) -> None:
    automation.requested()
    automation.versions("v1", "v2", "v3")
    made: list[str] = []
    while stage := automation.requested():
        for asset, version in sorted(stage):
            assert version == "v3"
            automation.made(asset, version)
            made.append(asset)
    versioned = {one.key.to_user_string() for one in ASSETS if one.partitions_def is not None}
    assert sorted(made) == sorted(versioned - {"cost_plan"})


def test_a_failed_blocking_check_stops_its_own_version_and_a_warning_none(automation: Automation) -> None:
    automation.requested()
    automation.versions("v1", "v2", "v3", "v4")
    automation.requested()
    automation.made("revision_rounds", "v3", failed="repetition")
    automation.made("revision_rounds", "v4", failed="refusals")
    # What has no blocking check after it goes into the same run: the data set, the model, and what is sampled from it.
    assert automation.requested() == {(asset, "v4") for asset in ("sft_dataset", "sl_cai_model", "response_pairs")}
    assert automation.requested() == set()


def test_nothing_begins_while_prompts_have_a_failed_check(automation: Automation) -> None:
    automation.requested()
    automation.made("initial_responses", failed="unfinished_completions")
    automation.versions("v1", "v2", "v3")
    assert automation.requested() == {("constitution", "v3"), ("calibration_judgements", "v3")}


def test_everything_is_off_by_default_and_says_what_it_does() -> None:
    sensors = list(build_definitions().get_repository_def().sensor_defs)
    assert {sensor.name for sensor in sensors} == {"new_versions", "changed_prompts", "failed_runs", "failed_checks"}
    for sensor in sensors:
        assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
        assert sensor.description
    (schedule,) = build_definitions().get_repository_def().schedule_defs
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


def test_assets_on_demand_have_no_condition() -> None:
    graph = build_definitions().resolve_asset_graph()
    automated = {key for key in graph.materializable_asset_keys if graph.get(key).automation_condition}
    target = dg.AssetSelection.from_string(selection_of_required_assets()).resolve(graph)
    assert automated == {key for key in target if graph.get(key).is_partitioned}


def tick(cursor: str | None) -> Any:
    with dg.build_sensor_context(cursor=cursor) as context:
        return changed_prompts(context)


def test_prompts_are_read_again_when_a_file_of_theirs_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = load_settings(SETTINGS_FILE, "default")
    files = default.model_copy(update={"prompts": default.prompts.model_copy(update={"sources": [str(tmp_path)]})})
    monkeypatch.setattr("assets.automation.active_settings", lambda: files)
    (tmp_path / "a.jsonl").write_text("{}\n")
    first = tick(None)
    assert not first.run_requests  # it only looks what there is
    assert not tick(first.cursor).run_requests
    (tmp_path / "b.jsonl").write_text("{}\n")
    second = tick(first.cursor)
    assert len(second.run_requests) == 1
    assert not tick(second.cursor).run_requests
    (tmp_path / "b.jsonl").unlink()
    third = tick(second.cursor)
    assert third.cursor == first.cursor
    # As it was before, and to be read again: Dagster never launches a second run for one key.
    assert [request.run_key for request in third.run_requests] == [None]
    files.prompts.sources[0] = str(tmp_path / "gone")
    skipped = tick(second.cursor)
    assert "gone does not exist" in skipped.skip_message


def report_failure(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> None:
    context = dg.build_run_status_sensor_context(
        sensor_name="failed_runs",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
    )
    failed_runs(context.for_run_failure())


@pytest.fixture
def failed(home: Home) -> Iterator[tuple[Any, dg.DagsterInstance]]:
    """A run that failed: there is no such file of prompts."""
    with dg.DagsterInstance.ephemeral() as instance:
        config = {"prompts": {"sources": ["/nowhere/\x1b[31m.jsonl"]}}
        yield materialize(["prompts"], config, raise_on_error=False, instance=instance), instance


def test_a_failed_run_is_a_line_that_says_what_failed_where_and_why(home: Home, failed: Any) -> None:
    result, instance = failed
    report_failure(result, instance)
    report_failure(result, instance)  # Dagster asks again where an earlier answer took too long
    (line,) = home.failures.read_text().splitlines()
    noted = json.loads(line)
    assert noted["run_id"] == result.run_id
    assert (noted["assets"], noted["failed_steps"], noted["constitution_version"]) == (["prompts"], ["prompts"], "v1")
    assert "does not exist" in noted["error"]
    assert "\\x1b" in noted["error"]


def test_a_command_of_the_users_own_gets_the_line(
    home: Home, failed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told; touch owned"
    program = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    monkeypatch.setenv("CAI_ON_ALERT", f'{sys.executable} -c "{program}" "{told}"')
    report_failure(*failed)
    alert = json.loads(told.read_text())
    assert alert.pop("kind") == "failed_run"
    assert alert.pop("text").startswith("A run of v1 failed at prompts: ")
    assert alert == json.loads(home.failures.read_text())
    assert not (Path.cwd() / "owned").exists()


@pytest.mark.parametrize("command", ["/nowhere/at-all", f'{sys.executable} -c "raise SystemExit(3)"'])
def test_a_command_that_fails_loses_no_line(
    home: Home, failed: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("CAI_ON_ALERT", command)
    report_failure(*failed)
    assert len(home.failures.read_text().splitlines()) == 1


class Received(BaseHTTPRequestHandler):
    """A web address that keeps what is posted to it."""

    bodies: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What arrives at the address that CAI_WEBHOOK names."""
    Received.bodies.clear()
    with HTTPServer(("127.0.0.1", 0), Received) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("CAI_WEBHOOK", f"http://127.0.0.1:{server.server_port}/hook")
        yield Received.bodies
        server.shutdown()


def check_result(**about: Any) -> dict[str, Any]:
    """A row of check_results, of a check that warned."""
    row = {
        "table_name": "revision_rounds",
        "constitution_version": "v1",
        "check_name": "repetition",
        "run_id": "r",
        "checked_at": datetime(2026, 1, 1),  # noqa: DTZ001 # as stored
        "passed": False,
        "severity": "WARN",
        "value": 0.4,
        "estimate": None,
        "bounds": "at most 0.1",
        "rows": 12,
        "data_version": "d",
    }
    return {**row, **about}


def ticked(cursor: str | None) -> Any:
    with dg.build_sensor_context(cursor=cursor) as context:
        return failed_checks(context)


def test_checks_that_fail_or_warn_are_sent_once_with_value_bound_and_advice(home: Home, webhook: list[Any]) -> None:
    lake = open_lake(home)
    lake.append("check_results", check_result())
    first = ticked(None)  # what was there before it was turned on is no news
    lake.append("check_results", check_result(passed=True, value=0.05))
    second = ticked(first.cursor)
    assert webhook == []
    lake.append(
        "check_results", check_result(severity="ERROR", constitution_version="v2"), check_result(check_name="refusals")
    )
    third = ticked(second.cursor)
    (message,) = webhook
    one, other = message["text"].splitlines()
    assert one.startswith("v2: revision_rounds.repetition failed: 0.4; bound: at most 0.1. Texts that go in circles")
    assert other.startswith("v1: revision_rounds.refusals warned: 0.4; ")
    assert ticked(third.cursor).cursor == third.cursor
    assert len(webhook) == 1


def test_an_address_that_does_not_answer_is_said_and_stops_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_WEBHOOK", f"http://127.0.0.1:{free_port()}/")
    assert [problem.split(":")[0] for problem in send("checks", "text", {})] == ["CAI_WEBHOOK"]
    monkeypatch.setenv("CAI_WEBHOOK", "file:///etc/passwd")
    assert send("checks", "text", {}) == ["CAI_WEBHOOK: it has to begin with https:// or http://"]


def test_the_digest_says_what_was_made_what_stands_failed_and_which_checks_are_bad(
    home: Home, webhook: list[Any]
) -> None:
    run = materialize(["prompts"], {"prompts": {"sources": ["/nowhere"]}}, raise_on_error=False)
    assert not run.success
    open_lake(home).append("check_results", check_result())
    job = build_definitions().resolve_job_def("daily_digest")
    assert job.execute_in_process().success
    (message,) = webhook
    first, *others = message["text"].splitlines()
    assert first == "In the last day 0 tables were made; 1 stand failed, 1 checks are bad."
    assert others[0].startswith("all versions: prompts: the run failed: prompts: /nowhere does not exist")
    assert "revision_rounds.repetition warned" in others[1]
