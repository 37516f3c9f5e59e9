"""What we rely on in Dagster itself, some of it in preview: if one of these fails, Dagster has changed."""

from collections.abc import Iterator

import dagster as dg
import pytest

UPSTREAM = dg.AssetKey("upstream")
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


def several_checks(ran: list[str]) -> dg.Definitions:
    @dg.asset(partitions_def=VERSIONS)
    def upstream() -> None: ...

    @dg.asset(partitions_def=VERSIONS, deps=[upstream])
    def downstream(context: dg.AssetExecutionContext) -> None:
        ran.append(context.partition_key)

    specs = [dg.AssetCheckSpec(name, asset=upstream, blocking=True, partitions_def=VERSIONS) for name in "abc"]

    @dg.multi_asset_check(name="upstream_checks", specs=specs, can_subset=True)
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        for spec in specs:
            passed = spec.name != "b" or context.partition_key != "v2"
            yield dg.AssetCheckResult(passed=passed, asset_key=UPSTREAM, check_name=spec.name)

    return dg.Definitions([upstream, downstream], asset_checks=[checks], executor=dg.in_process_executor)


@pytest.mark.parametrize(("version", "goes_on"), [("v1", True), ("v2", False)])
def test_one_of_several_blocking_checks_in_one_op_stops_its_own_partition_and_all_are_recorded(
    version: str, goes_on: bool
) -> None:
    ran: list[str] = []
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(several_checks(ran), version, instance)
    assert ran == (["v1"] if goes_on else [])
    found = {(one.check_name, one.partition): one.passed for one in result.get_asset_check_evaluations()}
    assert found == {("a", version): True, ("b", version): goes_on, ("c", version): True}


@pytest.mark.parametrize(
    ("blocking", "passed", "goes_on"), [(True, False, False), (False, False, True), (True, True, True)]
)
def test_automation_waits_for_a_blocking_check_to_pass_even_where_it_only_warns(
    blocking: bool, passed: bool, goes_on: bool
) -> None:
    @dg.asset(partitions_def=VERSIONS)
    def upstream() -> None: ...

    @dg.asset_check(asset=upstream, blocking=blocking, partitions_def=VERSIONS)
    def check() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN)

    condition = ~dg.AutomationCondition.any_deps_missing() & dg.AutomationCondition.all_deps_blocking_checks_passed()

    @dg.asset(partitions_def=VERSIONS, deps=[upstream], automation_condition=condition)
    def downstream() -> None: ...

    definitions = dg.Definitions([upstream, downstream], asset_checks=[check], executor=dg.in_process_executor)
    job = definitions.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(partition_key="v1", instance=instance, asset_selection=[UPSTREAM]).success
        requested = dg.evaluate_automation_conditions(definitions, instance)
    assert requested.get_requested_partitions(dg.AssetKey("downstream")) == ({"v1"} if goes_on else set())


def test_automation_goes_on_where_a_check_passes_after_its_asset_was_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = [False]

    @dg.asset(partitions_def=VERSIONS)
    def upstream() -> None: ...

    @dg.asset_check(asset=upstream, blocking=True, partitions_def=VERSIONS)
    def check() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=passes[-1])

    condition = dg.AutomationCondition.on_missing() & dg.AutomationCondition.all_deps_blocking_checks_passed()

    @dg.asset(partitions_def=VERSIONS, deps=[upstream], automation_condition=condition)
    def downstream() -> None: ...

    key = dg.AssetKey("downstream")
    definitions = dg.Definitions([upstream, downstream], asset_checks=[check], executor=dg.in_process_executor)
    job = definitions.resolve_implicit_global_asset_job_def()
    monkeypatch.setattr(VERSIONS, "_partition_keys", ["v1"])
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.evaluate_automation_conditions(definitions, instance)
        monkeypatch.undo()
        requested: list[set[str | None]] = []
        for passes_now in (False, True, True):
            passes.append(passes_now)
            job.execute_in_process(
                partition_key="v2", instance=instance, asset_selection=[UPSTREAM], raise_on_error=False
            )
            result = dg.evaluate_automation_conditions(definitions, instance, cursor=result.cursor)
            requested.append(result.get_requested_partitions(key))
    assert requested == [set(), {"v2"}, set()]
