"""The reward model, trained on labelled pairs, and its evaluation on prompts it never saw."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.common.launchpad import defaults_from
from assets.common.stage import stage_rows, work_of
from assets.common.table_asset import table_asset
from assets.common.training import checkpoint_in_use, current_checkpoint, stage_checkpoint
from cai_dagster.evaluation.settings import RewardModelEvaluationSettings
from cai_dagster.lake.snapshots import TableSnapshot
from cai_dagster.models.chat_format import ChatFormat
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import TrainingOutcome
from cai_dagster.training.settings import RewardModelBase, RewardModelSettings
from resources.accelerator import ACCELERATOR
from resources.lake import LakeResource, RunTables
from resources.language_models import LanguageModelResource

if TYPE_CHECKING:
    from cai_dagster.training.reward_modelling import LabelledPairs


@defaults_from(active_settings().reward_model)
class RewardModelConfig(RewardModelSettings, dg.Config):
    """How the reward model is trained."""


@table_asset(code_version="2")
def reward_model(
    context: dg.AssetExecutionContext,
    config: RewardModelConfig,
    preference_pairs: TableSnapshot,
    response_pairs: TableSnapshot,
    judgements: TableSnapshot,
    prompts: TableSnapshot,
    constitution: TableSnapshot,
    sl_cai_model: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """A sequence classifier with one output, trained on P(chosen) of the pairs in the split `preference`."""
    from cai_dagster.plan.trainings import labelled_training_pairs, reward_model_ingredients
    from cai_dagster.training.reward_modelling import label_tables

    base = current_checkpoint(sl_cai_model) if config.base == RewardModelBase.sl_cai_model else policy.weights()
    given = (preference_pairs, response_pairs, judgements, prompts, constitution)
    read = [table for table in given if table.table in label_tables(config)] + _human_labels(context)
    work = work_of(context, lake, *read, sl_cai_model)

    def train_on(pairs: "LabelledPairs", folder: Path) -> TrainingOutcome:
        from cai_dagster.training.launch import RewardModelTraining, train
        from cai_dagster.training.reward_modelling import TokenPair, token_pairs
        from cai_dagster.training.token_files import write_token_rows

        tokenized = token_pairs(pairs.rows(), ChatFormat(base.folder, policy.chat_options), config.max_length)
        usable = write_token_rows(TokenPair, tokenized, folder.parent / "pairs.arrow")
        _require_pairs(usable.count, config.min_pairs)
        training = RewardModelTraining(base.folder, usable, config, policy.chat_options, folder)
        outcome = train(training, context.log.info)
        identical = {"identical_after_truncation": pairs.count - usable.count}
        return replace(outcome, row_counts={**outcome.row_counts, **identical, **pairs.labelled_by()})

    with labelled_training_pairs(work, config) as pairs:
        _require_pairs(pairs.count, config.min_pairs)
        ingredients = reward_model_ingredients(work, base, config, pairs)
        train_into = partial(train_on, pairs)
        return stage_checkpoint(context, lake, work.staged, ingredients, pairs.count, train_into, pairs.labelled_by())


def _human_labels(context: dg.AssetExecutionContext) -> list[TableSnapshot]:
    """The table human_preferences, where it has been materialized: no graph needs human labels."""
    found = RunTables.of(context.instance, context.run.run_id).find("human_preferences")
    return [found] if found else []


def _require_pairs(usable: int, minimum: int) -> None:
    if usable < minimum:
        raise dg.Failure(
            f"reward_model: {usable} usable pairs in the split `preference`, and min_pairs asks for {minimum}. Add "
            "prompts or raise response_pairs.pairs_per_prompt; a reward model of so few pairs would mean nothing.",
            allow_retries=False,
        )


@defaults_from(active_settings().reward_model_evaluation)
class RewardModelEvaluationConfig(RewardModelEvaluationSettings, dg.Config):
    """How the reward model is measured."""


@table_asset(code_version="3")
def reward_model_evaluation(
    context: dg.AssetExecutionContext,
    config: RewardModelEvaluationConfig,
    reward_model: TableSnapshot,
    preference_pairs: TableSnapshot,
    response_pairs: TableSnapshot,
    judgements: TableSnapshot,
    prompts: TableSnapshot,
    constitution: TableSnapshot,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """The reward model against the labels of evaluation prompts, whole and in slices, beside trivial baselines."""
    from cai_dagster.evaluation.reward_model import evaluate_checkpoint, scores_table
    from cai_dagster.pages.plots import calibration_plot, reward_plot
    from cai_dagster.plan.trainings import held_out_parts

    checkpoint = checkpoint_in_use(reward_model)
    read = (preference_pairs, response_pairs, judgements, prompts, constitution, *_human_labels(context))
    work = work_of(context, lake, *read)
    staged = work.staged
    with ACCELERATOR.reserved(context.log.info):
        scored = evaluate_checkpoint(checkpoint, held_out_parts(work), config, staged.reject, context.log.info)
    if not scored:
        raise dg.Failure(
            "reward_model_evaluation: no preference pair belongs to an evaluation prompt. Add prompts, or lower "
            "prompts.sft_share and prompts.preference_share.",
            allow_retries=False,
        )
    staged.add({"checkpoint_key": checkpoint["checkpoint_key"], **row.to_row()} for row in scored)
    overall = scored[0].scores
    plots = {
        "calibration": dg.MetadataValue.md(calibration_plot(overall.predicted, overall.label)),
        "rewards": dg.MetadataValue.md(reward_plot(overall.rewards)),
    }
    metadata = {**overall.numbers, **plots, "slices": dg.MetadataValue.md(scores_table(scored))}
    return stage_rows(context, lake, staged, metadata)
