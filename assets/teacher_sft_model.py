"""The baseline of Sharma et al. 2024: the policy fine-tuned on what the feedback model itself would answer.

Where this does as well as what was trained on AI feedback, the feedback bought nothing over imitation of its giver.
"""

from pathlib import Path

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import run_stage, work_of
from assets.common.table_asset import table_asset
from assets.common.training import stage_checkpoint
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.plan.stages import teacher_responses_stage
from cai_dagster.recipes.settings import InitialResponsesSettings
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import TrainingOutcome
from cai_dagster.training.settings import TrainingSettings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().initial_responses)
class TeacherResponsesConfig(InitialResponsesSettings, dg.Config):
    """How the feedback model answers: by default exactly as the policy in initial_responses."""


@table_asset(code_version="1")
def teacher_responses(
    context: dg.AssetExecutionContext,
    config: TeacherResponsesConfig,
    prompts: TableSnapshot,
    feedback_model: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """The feedback model's own answers to the prompts of the split `sft`. They know no constitution."""
    stage = teacher_responses_stage(config)
    return run_stage(context, lake, feedback_model, stage, {"prompts": prompts})


@defaults_from(active_settings().sl_cai_model)
class TeacherSftModelConfig(TrainingSettings, dg.Config):
    """How the policy is fine-tuned: by default exactly as sl_cai_model."""


@table_asset(code_version="1")
def teacher_sft_model(
    context: dg.AssetExecutionContext,
    config: TeacherSftModelConfig,
    teacher_responses: TableSnapshot,
    prompts: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """The policy fine-tuned on teacher_responses: the same checkpoint for every version."""
    from cai_dagster.plan.trainings import teacher_dialogues, teacher_ingredients

    work = work_of(context, lake, teacher_responses, prompts)
    base = policy.weights()
    ingredients = teacher_ingredients(work, base, config)

    def train_into(folder: Path) -> TrainingOutcome:
        from cai_dagster.training.launch import SupervisedTraining, train
        from cai_dagster.training.supervised import TokenRow, token_rows
        from cai_dagster.training.token_files import write_token_rows

        tokenized = token_rows(teacher_dialogues(work), policy.chat_format(), config.max_length)
        rows = write_token_rows(TokenRow, tokenized, folder.parent / "rows.arrow")
        training = SupervisedTraining(base.folder, rows, None, config, policy.chat_options, folder)
        return train(training, context.log.info)

    answered = work.lake.count("FROM teacher_responses", **work.tables)
    return stage_checkpoint(context, lake, work.staged, ingredients, answered, train_into)
