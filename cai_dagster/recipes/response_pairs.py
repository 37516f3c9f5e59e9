"""Response pairs: two completions of one prompt, to be compared.

Sampled from the fine-tuned policy (Bai et al. 2022, section 4.1), or first response against last revision (direct
principle feedback, Castricato et al. 2024). It knows no judge.
"""

from collections.abc import Mapping
from typing import Any

from cai_dagster.calls.requests import Completion, LanguageModel, Request, Slot
from cai_dagster.inputs.pairs import pair_row
from cai_dagster.models.messages import Messages
from cai_dagster.recipes.settings import ResponsePairsSettings

STAGE = "response_pairs"
FIRST_AND_LAST_RESPONSES = """
    SELECT DISTINCT ON (prompt_id, completion, revision) prompt_id, completion, reasoning, finish_reason, request_id,
        revision, revision_reasoning, revision_finish_reason, revision_request_id
    FROM revision_rounds JOIN initial_responses USING (prompt_id, sample) JOIN prompts USING (prompt_id)
    WHERE split IN ('preference', 'evaluation') AND round = (SELECT max(round) FROM revision_rounds)
    ORDER BY prompt_id, completion, revision, sample
"""


async def sample_pairs(
    model: LanguageModel, prompt_id: str, prompt: Messages, settings: ResponsePairsSettings
) -> list[dict[str, Any]]:
    """Rows of `response_pairs`: `pairs_per_prompt` times two samples; a pair that came up already is not repeated."""
    pairs: dict[str, dict[str, Any]] = {}
    for number in range(settings.pairs_per_prompt):
        slots = (Slot(STAGE, prompt_id, sample=2 * number), Slot(STAGE, prompt_id, sample=2 * number + 1))
        first, second = [await model.complete(Request(prompt, slot, settings.sampling)) for slot in slots]
        pair = pair_row(prompt_id, "sl_cai_model", first, second)
        pairs[pair["pair_id"]] = pair
    return list(pairs.values())


def revision_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of `response_pairs` from a row of FIRST_AND_LAST_RESPONSES: y^0 against y^n."""
    first = Completion(row["completion"], row["finish_reason"], row["request_id"], row["reasoning"])
    ended, call = row["revision_finish_reason"], row["revision_request_id"]
    last = Completion(row["revision"], ended, call, row["revision_reasoning"])
    return pair_row(row["prompt_id"], "revisions", first, last)
