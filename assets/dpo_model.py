"""DPO: SL-CAI optimized on the preference pairs, without a reward model."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import work_of
from assets.common.table_asset import table_asset
from assets.common.training import current_checkpoint, require, stage_checkpoint
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import TrainingOutcome
from cai_dagster.training.settings import DpoModelSettings
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource

if TYPE_CHECKING:
    from cai_dagster.training.reward_modelling import LabelledPairs

_TOO_FEW = "usable pairs in the split `preference`. Add prompts, or raise response_pairs.pairs_per_prompt"


@defaults_from(active_settings().dpo_model)
class DpoModelConfig(DpoModelSettings, dg.Config):
    """How the policy is optimized."""


@table_asset(code_version="1")
def dpo_model(
    context: dg.AssetExecutionContext,
    config: DpoModelConfig,
    preference_pairs: TableSnapshot,
    sl_cai_model: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """sl_cai_model optimized by DPO on the pairs of the split `preference`."""
    from cai_dagster.plan.trainings import dpo_ingredients, preference_training_pairs

    base = current_checkpoint(sl_cai_model)
    work = work_of(context, lake, preference_pairs, sl_cai_model)

    def train_on(pairs: "LabelledPairs", folder: Path) -> TrainingOutcome:
        from cai_dagster.training.launch import DpoTraining, train
        from cai_dagster.training.policy_optimization import CompletionPair, completion_pairs
        from cai_dagster.training.token_files import write_token_rows

        tokenized = completion_pairs(pairs.rows(), ChatFormat(base.folder, policy.chat_options), config.max_length)
        usable = write_token_rows(CompletionPair, tokenized, folder.parent / "pairs.arrow")
        require("dpo_model", usable.count, "min_pairs", config.min_pairs, _TOO_FEW)
        training = DpoTraining(base.folder, usable, config, policy.chat_options, folder)
        return train(training, context.log.info)

    with preference_training_pairs(work) as pairs:
        require("dpo_model", pairs.count, "min_pairs", config.min_pairs, _TOO_FEW)
        ingredients = dpo_ingredients(work, base, config, pairs)
        return stage_checkpoint(context, lake, work.staged, ingredients, pairs.count, partial(train_on, pairs))
