"""Critique and revision: y^1 … y^n of every first response under principles drawn from the constitution."""

import dagster as dg

from assets.launchpad import defaults_from
from assets.partitions import constitution_versions
from assets.stage import Inputs, Row, run_stage
from cai_dagster.constitution import Constitution
from cai_dagster.critique_revision import revise
from cai_dagster.requests import LanguageModel, to_messages
from cai_dagster.settings import RevisionRoundsSettings, active_settings
from cai_dagster.snapshots import TableSnapshot
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource

ROWS = """
    SELECT prompt_id, sample, messages, completion FROM initial_responses JOIN prompts USING (prompt_id)
    WHERE list_contains([{splits}], split) ORDER BY prompt_id, sample
"""


@defaults_from(active_settings().revision_rounds)
class RevisionRoundsConfig(RevisionRoundsSettings, dg.Config):
    """How critiques and revisions are drawn."""


@dg.asset(
    partitions_def=constitution_versions,
    group_name="supervised_stage",
    kinds={"vllm", "ducklake"},
    owners=["team:post-training"],
    code_version="1",
    pool="gpu",
)
def revision_rounds(
    context: dg.AssetExecutionContext,
    config: RevisionRoundsConfig,
    constitution: TableSnapshot,
    prompts: TableSnapshot,
    initial_responses: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """Prompt × round: the principle drawn, the critique, the revision."""
    principles = Constitution.from_rows(constitution.frame().to_dicts())

    async def rounds(model: LanguageModel, row: Row) -> list[Row]:
        prompt_id, sample, prompt = row["prompt_id"], row["sample"], to_messages(row["messages"])
        revised = await revise(model, principles, prompt_id, sample, prompt, row["completion"], config)
        return [{"prompt_id": prompt_id, "sample": sample, **made.to_row()} for made in revised]

    splits = ", ".join(f"'{split}'" for split in config.splits)
    tables = {"prompts": prompts, "initial_responses": initial_responses}
    inputs = Inputs(ROWS.format(splits=splits), tables, lambda row: f"{row['prompt_id']}/{row['sample']}")
    model = policy.language_model(context.log.info)
    return run_stage(context, lake, model, inputs, rounds, policy.rows_in_flight, config.max_rejected_share)
