import polars as pl
import pytest

from cai_dagster.models.messages import Message
from cai_dagster.recipes.best_of_n import best_of_n, sample_candidates
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import TABLES
from tests.scripted import ScriptedEngine, ScriptedModel

SETTINGS = active_settings().best_of_n_candidates.model_copy(update={"n": 3})


async def test_n_completions_of_one_prompt_each_with_its_own_seed() -> None:
    engine = ScriptedEngine(lambda request: f"answer {request.slot.sample}")
    rows = await sample_candidates(ScriptedModel(engine), "ab", (Message("user", "why?"),), SETTINGS)
    assert [row["completion"] for row in rows] == ["answer 0", "answer 1", "answer 2"]
    assert len({request.seed for request in engine.requests}) == 3
    assert len({row["request_id"] for row in rows}) == 3


def candidates(*completions: tuple[str, int, str, float]) -> pl.DataFrame:
    rows = [
        {
            "constitution_version": "v1",
            "prompt_id": prompt_id,
            "sample": sample,
            "completion": text,
            "finish_reason": "stop",
            "request_id": f"{place:x}",
        }
        for place, (prompt_id, sample, text, _) in enumerate(completions)
    ]
    rewards = pl.Series("reward", [reward for *_, reward in completions])
    return pl.DataFrame(rows, schema=TABLES["best_of_n_candidates"].schema).with_columns(rewards)


def test_the_candidate_with_the_highest_reward_is_kept_beside_the_mean() -> None:
    made = best_of_n(
        candidates(("b", 0, "x", 7.0), ("a", 0, "low", -1.0), ("a", 1, "high", 3.0), ("a", 2, "middle", 1.0))
    )
    assert made["prompt_id"].to_list() == ["a", "b"]
    assert made["completion"].to_list() == ["high", "x"]
    assert made["n"].to_list() == [3, 1]
    assert made["reward"].to_list() == [3.0, 7.0]
    assert made["mean_reward"].to_list() == pytest.approx([1.0, 7.0])


def test_of_equal_rewards_the_first_sample_is_kept() -> None:
    made = best_of_n(candidates(("a", 1, "later", 2.0), ("a", 0, "first", 2.0)))
    assert made["completion"].to_list() == ["first"]
