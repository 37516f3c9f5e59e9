"""RLAIF: SL-CAI optimized against the reward model, as RLHF proceeds (Bai et al. 2022, section 4.2)."""

from pathlib import Path

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import work_of
from assets.common.table_asset import table_asset
from assets.common.training import checkpoint_in_use, current_checkpoint, require, stage_checkpoint
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import TrainingOutcome
from cai_dagster.training.settings import RlaifModelSettings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource

_TOO_FEW = "prompts of the split `preference` that fit max_length with max_tokens. Add prompts, or raise max_length"


@defaults_from(active_settings().rlaif_model)
class RlaifModelConfig(RlaifModelSettings, dg.Config):
    """How the policy is optimized."""


@table_asset(code_version="1")
def rlaif_model(
    context: dg.AssetExecutionContext,
    config: RlaifModelConfig,
    constitution: TableSnapshot,
    prompts: TableSnapshot,
    reward_model: TableSnapshot,
    sl_cai_model: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """sl_cai_model optimized by RLOO for the reward of its own answers to the prompts of the split `preference`."""
    from cai_dagster.plan.trainings import rlaif_ingredients, rlaif_prompts
    from cai_dagster.training.policy_optimization import reward_reading

    work = work_of(context, lake, constitution, prompts, reward_model, sl_cai_model)
    base = current_checkpoint(sl_cai_model)
    judge = checkpoint_in_use(reward_model)
    reading = reward_reading(judge, constitution.frame())

    def train(folder: Path) -> TrainingOutcome:
        from cai_dagster.training.launch import RlaifTraining
        from cai_dagster.training.launch import train as run_training
        from cai_dagster.training.policy_optimization import TrainingPrompt, training_prompts
        from cai_dagster.training.token_files import write_token_rows

        chat_format = ChatFormat(base.folder, policy.chat_options)
        answered = training_prompts(rlaif_prompts(work), chat_format, config.max_length, config.max_tokens)
        usable = write_token_rows(TrainingPrompt, answered, folder.parent / "prompts.arrow")
        require("rlaif_model", usable.count, "min_prompts", config.min_prompts, _TOO_FEW)
        training = RlaifTraining(base.folder, usable, Path(judge["path"]), reading, config, policy.chat_options, folder)
        return run_training(training, context.log.info)

    ingredients = rlaif_ingredients(work, base, config, judge["checkpoint_key"], reading)
    rows = max(1, work.lake.count("FROM prompts WHERE split = 'preference'", prompts=prompts))
    return stage_checkpoint(context, lake, work.staged, ingredients, rows, train)
