"""What can run by itself, all of it off until someone turns it on in the UI: new constitution versions, prompt files that
changed, and a note of every run that failed. docs/monitoring.md says what each does. It knows no recipe.
"""

from collections.abc import Iterable

import dagster as dg

from cai_dagster.failures import FailedRun, record_failure
from cai_dagster.home import PROJECT, Home
from cai_dagster.selections import CONSTITUTIONAL_AI
from cai_dagster.settings import active_settings
from cai_dagster.source_files import fingerprint

new_version = (
    dg.AutomationCondition.on_missing()  # of versions that are added from now on, and each asset once
    & ~dg.AutomationCondition.any_deps_in_progress()
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
).with_label("new_version")


def automated(assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The assets; those of a constitution version with the condition under which `new_versions` materializes them."""
    return [
        asset.map_asset_specs(lambda spec: spec.replace_attributes(automation_condition=new_version))
        if asset.partitions_def is not None
        else asset
        for asset in assets
    ]


new_versions = dg.AutomationConditionSensorDefinition(
    "new_versions",
    target=CONSTITUTIONAL_AI,
    description="Materializes the graph of a constitution version when its file has appeared and definitions were "
    "reloaded. Versions that were there before it was turned on are left alone, and nothing is made twice.",
)
