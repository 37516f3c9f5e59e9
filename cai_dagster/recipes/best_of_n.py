"""Best of n: sample n completions of a policy, keep the one with the highest reward.

The cheapest policy improvement there is: no training, n times the sampling (Nakano et al. 2021, section 3.2;
its divergence from the sampled policy is at most log n − (n − 1)/n nats). It knows no reward model: rewards come in.
"""

from typing import TYPE_CHECKING, Any

from cai_dagster.calls.requests import LanguageModel, Request, Slot
from cai_dagster.models.messages import Messages
from cai_dagster.recipes.settings import BestOfNSettings

if TYPE_CHECKING:
    import polars as pl

STAGE = "best_of_n_candidates"

ANSWERED_CANDIDATES = "SELECT c.*, messages FROM best_of_n_candidates c JOIN prompts USING (prompt_id)"
"""The candidates with the prompts that they answer."""


async def sample_candidates(
    model: LanguageModel, prompt_id: str, prompt: Messages, settings: BestOfNSettings
) -> list[dict[str, Any]]:
    """Rows of `best_of_n_candidates`: n completions of one prompt, each with a seed of its own."""
    candidates: list[dict[str, Any]] = []
    for sample in range(settings.n):
        completion = await model.complete(Request(prompt, Slot(STAGE, prompt_id, sample=sample), settings.sampling))
        candidates.append(
            {
                "prompt_id": prompt_id,
                "sample": sample,
                "completion": completion.text,
                "reasoning": completion.reasoning,
                "finish_reason": completion.finish_reason,
                "request_id": completion.request_id,
            }
        )
    return candidates


def best_of_n(candidates: "pl.DataFrame") -> "pl.DataFrame":
    """The candidate of each prompt with the highest `reward`, the first of those that are equal.

    Adds `n` and `mean_reward` (over the n candidates).
    """
    import polars as pl

    return (
        candidates.with_columns(
            pl.len().over("prompt_id").alias("n"),
            pl.col("reward").mean().over("prompt_id").alias("mean_reward"),
        )
        .sort("prompt_id", "reward", "sample", descending=[False, True, False])
        .unique("prompt_id", keep="first", maintain_order=True)
    )
