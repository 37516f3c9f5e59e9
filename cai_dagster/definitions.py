"""The code location: assets, checks, jobs, sensors and resources. No other module of the domain knows Dagster."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.automation import (
    automated,
    changed_prompts,
    daily_digest,
    every_morning,
    failed_checks,
    failed_runs,
    new_versions,
)
from assets.best_of_n import best_of_n, best_of_n_candidates
from assets.checks import asset_checks
from assets.common.launchpad import defaults_from
from assets.constitution import constitution
from assets.constitution_diff import constitution_diff, version_judgements
from assets.cost_plan import cost_plan
from assets.dpo_model import dpo_model
from assets.human_preferences import human_preferences
from assets.initial_responses import initial_responses
from assets.jobs import constitutional_ai
from assets.judge_calibration import calibration_judgements, judge_calibration
from assets.judgements import judgements
from assets.policy_evaluation import policy_evaluation, policy_judgements, policy_responses
from assets.preference_pairs import preference_pairs
from assets.prompts import prompts
from assets.report import report
from assets.response_pairs import response_pairs
from assets.revision_rounds import revision_rounds
from assets.reward_model import reward_model, reward_model_evaluation
from assets.rlaif_model import rlaif_model
from assets.sft_dataset import sft_dataset
from assets.sl_cai_model import sl_cai_model
from assets.teacher_sft_model import teacher_responses, teacher_sft_model
from cai_dagster.settings import active_settings
from resources.lake import LakeIOManager, LakeResource
from resources.language_models import LanguageModelResource, LedgerResource

ASSETS = (
    cost_plan,
    constitution,
    prompts,
    initial_responses,
    revision_rounds,
    sft_dataset,
    sl_cai_model,
    response_pairs,
    judgements,
    human_preferences,
    calibration_judgements,
    judge_calibration,
    preference_pairs,
    reward_model,
    reward_model_evaluation,
    constitution_diff,
    report,
)

# Materialized on demand: `cai demo` and a plan leave them out.
POLICY_OPTIMIZATION = (
    teacher_responses,
    teacher_sft_model,
    dpo_model,
    rlaif_model,
    best_of_n_candidates,
    best_of_n,
    policy_responses,
    policy_judgements,
    policy_evaluation,
)

# Revisions of two versions judged beside each other: asks the feedback model, so on demand too.
COMPARISON = (version_judgements,)


@defaults_from(active_settings().policy)
class PolicyResource(LanguageModelResource):
    """The model that writes and revises."""


@defaults_from(active_settings().feedback_model)
class FeedbackModelResource(LanguageModelResource):
    """The model that judges."""


def build_definitions(resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The graph with its resources; tests replace some of them."""
    settings = active_settings()
    ledger = LedgerResource()
    return dg.Definitions(
        assets=(*automated(ASSETS), *POLICY_OPTIMIZATION, *COMPARISON),
        asset_checks=asset_checks,
        jobs=[constitutional_ai, daily_digest],
        sensors=[new_versions, changed_prompts, failed_runs, failed_checks],
        schedules=[every_morning],
        resources={
            "io_manager": LakeIOManager(),
            "lake": LakeResource(),
            "ledger": ledger,
            "policy": PolicyResource(ledger=ledger, **settings.policy.model_dump()),
            "feedback_model": FeedbackModelResource(ledger=ledger, **settings.feedback_model.model_dump()),
            **(resources or {}),
        },
        executor=dg.in_process_executor,  # the multiprocess executor would load a model for each step
    )


defs = build_definitions()
