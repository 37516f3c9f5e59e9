"""SL-CAI: the policy fine-tuned on its own revisions."""

from pathlib import Path

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import work_of
from assets.common.table_asset import table_asset
from assets.common.training import stage_checkpoint
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import TrainingOutcome
from cai_dagster.training.settings import TrainingSettings
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
    from cai_dagster.plan.trainings import held_out_dialogues, sl_cai_ingredients, supervised_dialogues

    base = policy.weights()
    work = work_of(context, lake, sft_dataset, revision_rounds, prompts)
    ingredients = sl_cai_ingredients(work, base, config)

    def train_into(folder: Path) -> TrainingOutcome:
        from cai_dagster.training.launch import SupervisedTraining, train
        from cai_dagster.training.supervised import TokenRow, token_rows
        from cai_dagster.training.token_files import write_token_rows

        chat_format = policy.chat_format()
        learned = token_rows(supervised_dialogues(work), chat_format, config.max_length)
        held_out = token_rows(held_out_dialogues(work), chat_format, config.max_length)
        rows = write_token_rows(TokenRow, learned, folder.parent / "rows.arrow")
        unseen = write_token_rows(TokenRow, held_out, folder.parent / "held_out.arrow")
        training = SupervisedTraining(base.folder, rows, unseen, config, policy.chat_options, folder)
        return train(training, context.log.info)

    examples = work.lake.count("FROM sft_dataset", **work.tables)
    return stage_checkpoint(context, lake, work.staged, ingredients, examples, train_into)
