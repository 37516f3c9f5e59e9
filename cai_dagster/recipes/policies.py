"""The policies that are compared, and what each answers to the evaluation prompts.

A policy is named after the table that its answers or its weights come from. It knows no judge and no reward.
"""

from collections.abc import Mapping
from typing import Any

from cai_dagster.calls.requests import LanguageModel, Request, Slot
from cai_dagster.inputs.pairs import Pair, pair_id
from cai_dagster.models.messages import Messages, to_messages
from cai_dagster.recipes.settings import PolicyResponsesSettings

STAGE = "policy_responses"

CHECKPOINTS = ("sl_cai_model", "dpo_model", "rlaif_model", "teacher_sft_model")
"""Policies whose weights were trained here; they are sampled."""

_GIVEN = {
    "initial_responses": """
        SELECT prompt_id, completion, finish_reason, request_id FROM initial_responses WHERE sample = 0
    """,
    "revision_rounds": """
        SELECT prompt_id, revision AS completion, revision_finish_reason AS finish_reason,
            revision_request_id AS request_id
        FROM revision_rounds WHERE sample = 0 QUALIFY round = max(round) OVER (PARTITION BY prompt_id)
    """,
    "best_of_n": "SELECT prompt_id, completion, finish_reason, request_id FROM best_of_n",
}
POLICIES = ("initial_responses", "revision_rounds", *CHECKPOINTS, "best_of_n")
"""y^0, y^n, the checkpoints, and the reward model's pick of n samples of sl_cai_model."""

COMPARED = """
    SELECT prompt_id, messages, one.policy AS policy_0, other.policy AS policy_1,
        one.completion AS completion_0, other.completion AS completion_1
    FROM policy_responses one JOIN policy_responses other USING (prompt_id) JOIN prompts USING (prompt_id)
    WHERE one.policy < other.policy AND one.completion <> other.completion
    ORDER BY prompt_id, policy_0, policy_1
"""
"""Each two policies on each prompt that both have answered; the same answer twice needs no judge: it is a tie."""


ANSWERED_PROMPTS = {
    "answers": "SELECT responses.*, messages FROM policy_responses responses JOIN prompts USING (prompt_id)",
    "judgements": "FROM policy_judgements",
}
"""The answers with the prompts that they answer, and what was said of them."""


def given_answers(policy: str, most: int) -> str:
    """The SELECT that finds a policy's answers to the evaluation prompts in its table; empty for a checkpoint."""
    if policy in CHECKPOINTS:
        return ""
    return f"""
        SELECT '{policy}' AS policy, answers.* FROM ({_GIVEN[policy]}) answers
        JOIN (SELECT prompt_id FROM prompts WHERE split = 'evaluation' ORDER BY prompt_id LIMIT {most})
            USING (prompt_id)
        ORDER BY prompt_id
    """


async def answer(
    model: LanguageModel, policy: str, prompt_id: str, prompt: Messages, settings: PolicyResponsesSettings
) -> dict[str, Any]:
    """A row of `policy_responses`: one sample. Every policy draws with the same seed for the same prompt."""
    completion = await model.complete(Request(prompt, Slot(STAGE, prompt_id), settings.sampling))
    return {
        "policy": policy,
        "prompt_id": prompt_id,
        "completion": completion.text,
        "reasoning": completion.reasoning,
        "finish_reason": completion.finish_reason,
        "request_id": completion.request_id,
    }


def pair_to_judge(row: Mapping[str, Any]) -> Pair:
    """A row of COMPARED as the judge is asked; its id is that of the same two texts in `response_pairs`."""
    return Pair(
        pair_id=pair_id(row["prompt_id"], row["completion_0"], row["completion_1"]),
        prompt_id=row["prompt_id"],
        prompt=to_messages(row["messages"]),
        completion_0=row["completion_0"],
        completion_1=row["completion_1"],
    )
