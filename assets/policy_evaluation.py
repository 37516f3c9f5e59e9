"""The policies beside each other: their answers, what the feedback model says of them, and the result.

Whichever policies have been materialized for a version are compared; the others are named as absent.
"""

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import run_stage, run_stages, stage_rows, work_of
from assets.common.table_asset import table_asset
from assets.common.training import checkpoint_in_use, current_checkpoint
from cai_dagster.constitution.constitution import Constitution
from cai_dagster.evaluation.settings import PolicyEvaluationSettings
from cai_dagster.judging.settings import JudgementsSettings
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.plan.stages import policy_judgements_stage, policy_responses_stage
from cai_dagster.recipes.policies import ANSWERED_PROMPTS, CHECKPOINTS, POLICIES
from cai_dagster.recipes.settings import PolicyResponsesSettings
from cai_dagster.settings import active_settings
from resources.accelerator import ACCELERATOR
from resources.lake import LakeResource, RunTables
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().policy_responses)
class PolicyResponsesConfig(PolicyResponsesSettings, dg.Config):
    """How each policy answers the evaluation prompts."""


@table_asset(code_version="1")
def policy_responses(
    context: dg.AssetExecutionContext,
    config: PolicyResponsesConfig,
    prompts: TableSnapshot,
    initial_responses: TableSnapshot,
    revision_rounds: TableSnapshot,
    sl_cai_model: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """The answers of every policy there is to the evaluation prompts."""
    read, version = RunTables.of(context.instance, context.run.run_id), context.partition_key
    present = {table.table: table for table in (initial_responses, revision_rounds, sl_cai_model)}
    for name in POLICIES:
        if name not in present and (answered := read.find(name, version)):
            present[name] = answered
    runs = [
        (
            current_checkpoint(present[name]) if name in CHECKPOINTS else None,
            policy_responses_stage(name, config),
        )
        for name in POLICIES
        if name in present
    ]
    tables = {"prompts": prompts, **present}
    absent = [name for name in POLICIES if name not in present]
    return run_stages(context, lake, policy, runs, tables, {"absent_policies": absent})


@defaults_from(active_settings().judgements)
class PolicyJudgementsConfig(JudgementsSettings, dg.Config):
    """How the feedback model is asked: by default as for judgements, and in both orders whatever is said here."""


@table_asset(code_version="1")
def policy_judgements(
    context: dg.AssetExecutionContext,
    config: PolicyJudgementsConfig,
    constitution: TableSnapshot,
    prompts: TableSnapshot,
    policy_responses: TableSnapshot,
    feedback_model: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Two policies × prompt × principle × order: log P(A) and log P(B)."""
    stage = policy_judgements_stage(Constitution.from_rows(constitution.frame().to_dicts()), config)
    tables = {"prompts": prompts, "policy_responses": policy_responses}
    return run_stage(context, lake, feedback_model, stage, tables)


@defaults_from(active_settings().policy_evaluation)
class PolicyEvaluationConfig(PolicyEvaluationSettings, dg.Config):
    """How sure a win rate is."""


@table_asset(code_version="1")
def policy_evaluation(
    context: dg.AssetExecutionContext,
    config: PolicyEvaluationConfig,
    constitution: TableSnapshot,
    prompts: TableSnapshot,
    policy_responses: TableSnapshot,
    policy_judgements: TableSnapshot,
    reward_model: TableSnapshot,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Win rates with intervals, mean reward, length and refusals of every policy there is."""
    from cai_dagster.evaluation.policies import Measured, evaluate_policies, markdown_table, win_rate_plot
    from cai_dagster.training.policy_optimization import AnswerScorer

    work = work_of(context, lake, policy_responses, policy_judgements, prompts)
    checkpoint = checkpoint_in_use(reward_model)
    total = work.lake.count(ANSWERED_PROMPTS["answers"], **work.tables)
    with ACCELERATOR.reserved(context.log.info):
        scorer = AnswerScorer(checkpoint, constitution.frame(), total, context.log.info)
        measured = [
            Measured.of(scorer.scored(part["answers"]), part["judgements"])
            for part in work.parts("prompt_id", ANSWERED_PROMPTS)
        ]
    scores = evaluate_policies(measured, config)
    answered_by = {name for part in measured for name in part.answers["policy"]}
    work.staged.add(score.to_row() for score in scores)
    metadata = {
        "policies": dg.MetadataValue.md(markdown_table(scores)),
        "win_rates": dg.MetadataValue.md(win_rate_plot(scores)),
        "absent_policies": [name for name in POLICIES if name not in answered_by],
        "reward_model": checkpoint["checkpoint_key"],
    }
    return stage_rows(context, lake, work.staged, metadata)
