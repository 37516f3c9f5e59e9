"""What we rely on in Dagster itself, some of it in preview: if one of these fails, Dagster has changed."""

import dagster as dg
import pytest

VERSIONS = dg.StaticPartitionsDefinition(["v1", "v2"])


def graph(severity: dg.AssetCheckSeverity, ran: list[str]) -> dg.Definitions:
    @dg.asset(partitions_def=VERSIONS)
    def upstream() -> None: ...

    @dg.asset(partitions_def=VERSIONS, deps=[upstream])
    def downstream(context: dg.AssetExecutionContext) -> None:
        ran.append(context.partition_key)

    @dg.asset_check(asset=upstream, blocking=True, partitions_def=VERSIONS)
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=context.partition_key != "v2", severity=severity)

    return dg.Definitions([upstream, downstream], asset_checks=[check], executor=dg.in_process_executor)


def run(definitions: dg.Definitions, version: str, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = definitions.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(partition_key=version, raise_on_error=False, instance=instance)


@pytest.mark.parametrize(("version", "goes_on"), [("v1", True), ("v2", False)])
def test_a_failed_blocking_check_stops_only_its_own_partition(version: str, goes_on: bool) -> None:
    ran: list[str] = []
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(graph(dg.AssetCheckSeverity.ERROR, ran), version, instance)
    assert result.success is goes_on
    assert ran == (["v1"] if goes_on else [])


def test_a_warning_stops_nothing() -> None:
    ran: list[str] = []
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(graph(dg.AssetCheckSeverity.WARN, ran), "v2", instance).success
    assert ran == ["v2"]


def test_a_check_result_knows_its_partition() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(graph(dg.AssetCheckSeverity.WARN, []), "v2", instance)
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.partition == "v2"


def test_the_failing_assets_own_materialization_is_recorded() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(graph(dg.AssetCheckSeverity.ERROR, []), "v2", instance)
    assert [str(event.asset_key.path[0]) for event in result.get_asset_materialization_events() if event.asset_key] == [
        "upstream"
    ]
