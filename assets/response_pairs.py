"""Pairs of completions for the feedback model to compare."""

import dagster as dg

from assets.launchpad import defaults_from
from assets.partitions import constitution_versions
from assets.stage import Inputs, Row, new_rows, run_stage, stage_rows
from assets.training import checkpoint_weights
from cai_dagster.requests import Completion, LanguageModel, to_messages
from cai_dagster.response_pairs import pair_row, sample_pairs
from cai_dagster.settings import PairSource, ResponsePairsSettings, active_settings
from cai_dagster.snapshots import TableSnapshot
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource

PROMPTS = "SELECT prompt_id, messages FROM prompts WHERE split IN ('preference', 'evaluation') ORDER BY prompt_id"
FIRST_AND_LAST = """
    SELECT DISTINCT ON (prompt_id, completion, revision) prompt_id, completion, finish_reason, request_id,
        revision, revision_finish_reason, revision_request_id
    FROM revision_rounds JOIN initial_responses USING (prompt_id, sample) JOIN prompts USING (prompt_id)
    WHERE split IN ('preference', 'evaluation') AND round = (SELECT max(round) FROM revision_rounds)
    ORDER BY prompt_id, completion, revision, sample
"""


@defaults_from(active_settings().response_pairs)
class ResponsePairsConfig(ResponsePairsSettings, dg.Config):
    """Where the two completions of a pair come from."""


@dg.asset(
    partitions_def=constitution_versions,
    group_name="feedback_stage",
    kinds={"vllm", "ducklake"},
    owners=["team:post-training"],
    code_version="1",
    pool="gpu",
)
def response_pairs(
    context: dg.AssetExecutionContext,
    config: ResponsePairsConfig,
    prompts: TableSnapshot,
    initial_responses: TableSnapshot,
    revision_rounds: TableSnapshot,
    sl_cai_model: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Two completions of each preference and evaluation prompt."""
    if config.source == PairSource.revisions:
        tables = {"prompts": prompts, "initial_responses": initial_responses, "revision_rounds": revision_rounds}
        staged = new_rows(context, lake)
        staged.add(_revision_pair(row) for row in lake.open().stream(FIRST_AND_LAST, **tables))
        return stage_rows(context, lake, staged)

    async def sample(model: LanguageModel, row: Row) -> list[Row]:
        return [*await sample_pairs(model, row["prompt_id"], to_messages(row["messages"]), config)]

    inputs = Inputs(PROMPTS, {"prompts": prompts}, lambda row: row["prompt_id"])
    model = policy.language_model(context.log.info, checkpoint_weights(sl_cai_model))
    return run_stage(context, lake, model, inputs, sample, policy.rows_in_flight, config.max_rejected_share)


def _revision_pair(row: Row) -> Row:
    first = Completion(row["completion"], row["finish_reason"], row["request_id"])
    last = Completion(row["revision"], row["revision_finish_reason"], row["revision_request_id"])
    return pair_row(row["prompt_id"], "revisions", first, last)
