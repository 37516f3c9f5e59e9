"""SL-CAI: the policy fine-tuned on its own revisions."""

from pathlib import Path

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import work_of
from assets.common.table_asset import table_asset
from assets.common.training import stage_checkpoint
from cai_dagster.inputs.settings import Split
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import TrainingOutcome
from cai_dagster.training.settings import TrainedRounds, TrainingSettings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().sl_cai_model)
class SlCaiModelConfig(TrainingSettings, dg.Config):
    """How the policy is fine-tuned."""


@table_asset(code_version="1")
def sl_cai_model(
    context: dg.AssetExecutionContext,
    config: SlCaiModelConfig,
    sft_dataset: TableSnapshot,
    revision_rounds: TableSnapshot,
    prompts: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """The policy fine-tuned on sft_dataset; the loss on revisions of evaluation prompts says whether it learned."""
    from cai_dagster.plan.steps import sl_cai_ingredients
    from cai_dagster.training.supervised import dialogues_of, supervised_examples, token_rows

    base = policy.weights()
    examples = dialogues_of(sft_dataset.frame())
    held_out = dialogues_of(
        supervised_examples(revision_rounds.frame(), prompts.frame(), Split.evaluation, TrainedRounds.final)
    )
    work = work_of(context, lake, sft_dataset, revision_rounds, prompts)
    ingredients = sl_cai_ingredients(work, base, config)

    def train_into(folder: Path) -> TrainingOutcome:
        from cai_dagster.training.launch import SupervisedTraining, train

        chat_format = policy.chat_format()
        rows = token_rows(examples, chat_format, config.max_length)
        unseen = token_rows(held_out, chat_format, config.max_length)
        training = SupervisedTraining(base.folder, rows, unseen, config, policy.chat_options, folder)
        return train(training, context.log.info)

    return stage_checkpoint(context, lake, work.staged, ingredients, len(examples), train_into)
