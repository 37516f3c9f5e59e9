"""Checks that are run without a partition, as the UI's button "Execute all" runs them: every version is looked at."""

import dagster as dg
import polars as pl
import pytest

from cai_dagster.checks.declarations import CHECKS
from cai_dagster.home import Home
from cai_dagster.tables.registry import TABLES
from resources.lake import open_lake
from tests.explained_home import copied
from tests.scripted_graph import definitions


@pytest.fixture(scope="module")
def mine(explained: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copied(explained, tmp_path_factory.mktemp("checked") / "home")


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> dg.DagsterInstance:
    return dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster")))


@pytest.fixture(scope="module")
def executed(mine: Home, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    graph = definitions()
    job = dg.define_asset_job("execute_all", selection=dg.AssetSelection.all_asset_checks())
    resolved = job.resolve(
        asset_graph=graph.resolve_asset_graph(), resource_defs=graph.get_repository_def().get_top_level_resources()
    )
    for table in graph.resolve_asset_graph().materializable_asset_keys:  # as in an instance that has made them
        for version in ("v1", "v2"):
            partition = version if graph.resolve_asset_graph().get(table).is_partitioned else None
            instance.report_runless_asset_event(dg.AssetMaterialization(table, partition=partition))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CAI_HOME", str(mine.root))
        return resolved.execute_in_process(instance=instance, raise_on_error=False)


def test_every_check_of_every_materialized_version_is_run_and_recorded(
    executed: dg.ExecuteInProcessResult, mine: Home
) -> None:
    assert executed.success
    evaluated = {(one.asset_key.to_user_string(), one.check_name) for one in executed.get_asset_check_evaluations()}
    made = set(open_lake(mine).select("SELECT DISTINCT table_name FROM lake.materializations", {}).to_series())
    assert evaluated == {(check.table, check.name) for check in CHECKS if check.table in made}
    run = executed.dagster_run.run_id
    recorded = open_lake(mine).select("FROM lake.check_results WHERE run_id = $run", {"run": run})
    for check in CHECKS:
        if TABLES[check.table].versioned and check.table in made:
            of_check = recorded.filter(pl.col("table_name") == check.table, pl.col("check_name") == check.name)
            assert set(of_check["constitution_version"]) <= {"v1", "v2"}
            assert of_check.height


def test_a_check_of_several_versions_names_those_beyond_the_bound_and_is_as_bad_as_the_worst(
    executed: dg.ExecuteInProcessResult,
) -> None:
    of_versions = [one for one in executed.get_asset_check_evaluations() if "versions" in one.metadata]
    assert of_versions
    for one in of_versions:
        versions = one.metadata["versions"]
        assert isinstance(versions, dg.TableMetadataValue)
        passed = [record.data["result"] in ("passed", "not measured") for record in versions.records]
        assert one.passed == all(passed)
        table = one.asset_key.to_user_string()
        assert str(one.description).startswith(f"{table}, {passed.count(False)} of {len(passed)} versions beyond")


def test_each_result_is_in_the_history_of_its_version(
    executed: dg.ExecuteInProcessResult, instance: dg.DagsterInstance
) -> None:
    check = next(check for check in CHECKS if check.table == "preference_pairs")
    key = dg.AssetCheckKey(dg.AssetKey(check.table), check.name)
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    events = [record.event.dagster_event for record in history if record.event]
    assert {event.asset_check_evaluation_data.partition for event in events if event} >= {"v1", "v2"}
