"""What the feedback model says of each pair: evidence, kept raw."""

import dagster as dg

from assets.launchpad import defaults_from
from assets.partitions import constitution_versions
from assets.stage import Inputs, Row, run_stage
from cai_dagster.constitution import Constitution
from cai_dagster.judging import Pair, judge
from cai_dagster.requests import LanguageModel, to_messages
from cai_dagster.settings import JudgementsSettings, active_settings
from cai_dagster.snapshots import TableSnapshot
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource

PAIRS = """
    SELECT pair_id, prompt_id, messages, completion_0, completion_1 FROM response_pairs JOIN prompts USING (prompt_id)
    WHERE completion_0 <> completion_1 ORDER BY pair_id
"""


@defaults_from(active_settings().judgements)
class JudgementsConfig(JudgementsSettings, dg.Config):
    """How the feedback model is asked."""


@dg.asset(
    partitions_def=constitution_versions,
    group_name="feedback_stage",
    kinds={"vllm", "ducklake"},
    owners=["team:post-training"],
    code_version="1",
    pool="gpu",
)
def judgements(
    context: dg.AssetExecutionContext,
    config: JudgementsConfig,
    constitution: TableSnapshot,
    prompts: TableSnapshot,
    response_pairs: TableSnapshot,
    feedback_model: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Pair × principle × order: log P(A) and log P(B)."""
    principles = Constitution.from_rows(constitution.frame().to_dicts())

    async def compare(model: LanguageModel, row: Row) -> list[Row]:
        pair = Pair(
            row["pair_id"], row["prompt_id"], to_messages(row["messages"]), row["completion_0"], row["completion_1"]
        )
        judged = await judge(model, principles, pair, config)
        return [{"pair_id": pair.pair_id, "feedback_model": model.model_id, **made.to_row()} for made in judged]

    tables = {"prompts": prompts, "response_pairs": response_pairs}
    inputs = Inputs(PAIRS, tables, lambda row: row["pair_id"])
    model = feedback_model.language_model(context.log.info)
    return run_stage(context, lake, model, inputs, compare, feedback_model.rows_in_flight, config.max_rejected_share)
