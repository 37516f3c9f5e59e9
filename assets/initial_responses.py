"""First responses y^0 of the helpful policy. They know no constitution, so a new version costs nothing here."""

import dagster as dg

from assets.launchpad import defaults_from
from assets.stage import Inputs, Row, run_stage
from cai_dagster.requests import LanguageModel, Message, Request, Slot, to_messages
from cai_dagster.settings import InitialResponsesSettings, active_settings
from cai_dagster.snapshots import TableSnapshot
from resources.lake import LakeResource
from resources.language_models import LanguageModelResource


@defaults_from(active_settings().initial_responses)
class InitialResponsesConfig(InitialResponsesSettings, dg.Config):
    """How first responses y^0 are drawn."""


@dg.asset(
    group_name="supervised_stage",
    kinds={"vllm", "ducklake"},
    owners=["team:post-training"],
    code_version="1",
    pool="gpu",
)
def initial_responses(
    context: dg.AssetExecutionContext,
    config: InitialResponsesConfig,
    prompts: TableSnapshot,
    policy: LanguageModelResource,
    lake: LakeResource,
) -> dg.MaterializeResult:
    """The policy's own answers to each prompt, before any principle has been applied."""
    system = (Message("system", config.system_prompt),) if config.system_prompt else ()

    async def respond(model: LanguageModel, row: Row) -> list[Row]:
        messages = to_messages(row["messages"])
        if messages[0].role != "system":
            messages = (*system, *messages)
        responses: list[Row] = []
        for sample in range(config.samples):
            slot = Slot("initial_responses", row["prompt_id"], sample=sample)
            completion = await model.complete(Request(messages, slot, config.sampling))
            responses.append(
                {
                    "prompt_id": row["prompt_id"],
                    "sample": sample,
                    "completion": completion.text,
                    "finish_reason": completion.finish_reason,
                    "request_id": completion.request_id,
                    "policy_model": model.model_id,
                }
            )
        return responses

    inputs = Inputs(
        "SELECT prompt_id, messages FROM prompts ORDER BY prompt_id", {"prompts": prompts}, lambda row: row["prompt_id"]
    )
    model = policy.language_model(context.log.info)
    return run_stage(context, lake, model, inputs, respond, policy.rows_in_flight, config.max_rejected_share)
