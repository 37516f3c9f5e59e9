"""Sensors, a schedule and automation conditions, each off until it is turned on in the UI.

They materialize new constitution versions, read prompts again when their files change, and send alerts; see
docs/monitoring.md.
"""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime

import dagster as dg

from assets.prompts import prompts
from cai_dagster.home import Home
from cai_dagster.inputs.files import SourceFileError, fingerprint
from cai_dagster.project import CONSTITUTIONS
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import required_assets, selection_of_required_assets

new_version = (
    dg.AutomationCondition.on_missing()  # of versions that are added from now on, and each asset once
    & ~dg.AutomationCondition.any_deps_in_progress()
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
).with_label("new_version")


def automated(assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The assets; those that belong to a version, with the condition under which `new_versions` materializes them."""
    return [
        asset.map_asset_specs(lambda spec: spec.replace_attributes(automation_condition=new_version))
        if asset.partitions_def is not None and asset.key.to_user_string() in required_assets()
        else asset
        for asset in assets
    ]


new_versions = dg.AutomationConditionSensorDefinition(
    "new_versions",
    target=selection_of_required_assets(),
    description="Materializes the graph of a constitution version whose file appeared, once definitions are reloaded. "
    "Stops where a blocking check fails. Leaves alone the versions that were there when it was first turned on.",
)


@dg.sensor(
    asset_selection=[prompts],
    minimum_interval_seconds=60,
    description="Reads the prompts again when one of their files changed. What follows from them is left to you.",
)
def changed_prompts(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request `prompts` when the fingerprint of its sources is not the one of the tick before."""
    try:
        now = fingerprint(active_settings().prompts.sources)
    except SourceFileError as error:
        return dg.SkipReason(str(error))
    # Without a run_key: with one, files that are again as they once were would never be read again.
    requests = [dg.RunRequest()] if context.cursor and context.cursor != now else []
    return dg.SensorResult(run_requests=requests, cursor=now)


@dg.run_failure_sensor(
    description="Adds a line to CAI_HOME/failures.jsonl for each run that failed, and sends it to the command in "
    "CAI_ON_ALERT and the address in CAI_WEBHOOK, where they are set.",
)
def failed_runs(context: dg.RunFailureSensorContext) -> None:
    """Note what failed, where and why."""
    from cai_dagster.upkeep.alerts import FailedRun, record_failure

    run = context.dagster_run
    steps = list(context.get_step_failure_events())
    failed = FailedRun(
        run_id=run.run_id,
        failed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        constitution_version=run.tags.get("dagster/partition"),
        assets=sorted(key.to_user_string() for key in run.asset_selection or ()),
        failed_steps=[step.step_key or "" for step in steps],
        error="\n".join(_cause(step) for step in steps) or context.failure_event.message or "",
    )
    for problem in record_failure(Home.from_environment(), failed):
        context.log.warning(problem)


@dg.sensor(
    minimum_interval_seconds=60,
    description="Sends the checks that failed or warned since it was turned on to the command in CAI_ON_ALERT and the "
    "address in CAI_WEBHOOK, with value, bound and advice.",
)
def failed_checks(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Send what the checks found since the tick before, in one alert."""
    from cai_dagster.upkeep.alerts import check_results_after, send, text_of_checks

    after = int(context.cursor) if context.cursor else None
    results, newest = check_results_after(Home.from_environment(), after)
    if results:
        about = {"checks": [{**asdict(one), "advice": one.advice} for one in results]}
        for problem in send("checks", text_of_checks(results), about):
            context.log.warning(problem)
    return dg.SensorResult(cursor=str(newest))


@dg.op(
    description="Sends what the last day brought: tables made, assets that stand failed, checks beyond their bounds."
)
def send_digest(context: dg.OpExecutionContext) -> None:
    """Send the digest; the run's log has it too."""
    from cai_dagster.upkeep.alerts import digest, send

    text, about = digest(Home.from_environment(), CONSTITUTIONS, datetime.now(UTC))
    context.log.info(text)
    for problem in send("digest", text, about):
        context.log.warning(problem)


@dg.job(description="One message about the last day, to the command in CAI_ON_ALERT and the address in CAI_WEBHOOK.")
def daily_digest() -> None:
    """The digest as a job, so that it can be sent at any time too."""
    send_digest()


every_morning = dg.ScheduleDefinition(
    name="every_morning", job=daily_digest, cron_schedule="0 7 * * *", description="Sends the digest at 7 o'clock, UTC."
)


def _cause(step: dg.DagsterEvent) -> str:
    """What a failed step says of itself: the reason it gave, or the innermost error."""
    data = step.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error and error.cause:
        error = error.cause
    return error.message.strip() if error else (step.message or "")
