"""The plan of a version: what materializing it now would pay for. It depends on nothing, so it can come first."""

from dataclasses import asdict

import dagster as dg

from assets.common.failures import failure_of
from assets.common.stage import new_rows, stage_rows
from assets.common.table_asset import table_asset
from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.settings import active_settings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@table_asset(code_version="1")
def cost_plan(
    context: dg.AssetExecutionContext,
    policy: LanguageModelResource,
    feedback_model: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Calls, tokens and seconds that materializing this version now would cost, stage by stage. Calls no model.

    It reads the settings of the active profile, as a backfill does, and not what is typed into the launchpad.
    """
    from cai_dagster.plan.cost import plan

    version = context.partition_key
    staged = new_rows(context, lake)
    try:
        made = plan(
            Home.from_environment(), active_settings(), policy, feedback_model, [version], report=context.log.info
        )
    except MendableError as error:
        raise failure_of(error) from None
    staged.add(asdict(stage) for stage in made.stages)
    new = sum(stage.new for stage in made.stages)
    training = [checkpoint.asset for checkpoint in made.checkpoints if not checkpoint.exists]
    exact = all(stage.exact for stage in made.stages)
    return stage_rows(context, lake, staged, {"new_calls": new, "exact": exact, "checkpoints_to_train": training})
