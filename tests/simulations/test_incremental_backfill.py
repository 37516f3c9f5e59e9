"""An edit of a constitution costs what it changed: paid calls of a scripted model against the theory.

10 000 prompts (1 500 where many versions are compared), 16 and 64 principles of uneven weights. Every measured share
lies within four standard errors of what tests/backfill_theory.py, and docs/incremental-backfill.md, say.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.requests import Answer, PaidCall, Request
from cai_dagster.constitution.constitution import Constitution, Principle
from cai_dagster.hashing import content_hash
from cai_dagster.inputs.pairs import Pair
from cai_dagster.judging.judge import judge
from cai_dagster.models.messages import Message
from cai_dagster.plan.counting import NoClaims
from cai_dagster.recipes.critique_revision import Round, revise
from cai_dagster.settings import active_settings
from tests.backfill_theory import (
    among_the_first,
    changed_by_round,
    moved_by_addition,
    moved_by_edit,
    moved_by_reweighting,
    paid_share,
)
from tests.scripted import ScriptedEngine

PROMPTS = 10_000
ROUNDS = 3
SETTINGS = active_settings().revision_rounds.model_copy(update={"rounds": ROUNDS})
FEWER = 1_500
PROMPT_IDS = [f"{number:032x}" for number in range(PROMPTS)]


class CallsInMemory:
    """Every call paid for, as the ledger would keep it."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}

    def get(self, request_ids: Sequence[str]) -> Mapping[str, Answer]:
        return {one: self.answers[one] for one in request_ids if one in self.answers}

    def put(self, calls: Iterable[PaidCall]) -> set[str]:
        self.answers.update({call.request_id: call.answer for call in calls})
        return set()

    def retries(self) -> Mapping[str, int | None]:
        return {}

    def claims(self) -> NoClaims:
        return NoClaims()


def answer(request: Request) -> str:
    """Another dialogue gives another answer."""
    return content_hash([message.content for message in request.messages], 16)


def model_over(calls: CallsInMemory) -> LedgeredModel:
    return LedgeredModel("scripted", lambda: ScriptedEngine(answer), calls)


def run(model: LedgeredModel, recipes: Iterable[Callable[[], Coroutine[Any, Any, Any]]]) -> list[Any]:
    """All recipes, 500 at a time."""

    async def work() -> list[Any]:
        waiting, results = list(recipes), []
        for start in range(0, len(waiting), 500):
            results += await asyncio.gather(*(recipe() for recipe in waiting[start : start + 500]))
        model.commit()
        return results

    return asyncio.run(work())


def constitution_of(weights: Sequence[float]) -> Constitution:
    principles = [Principle(f"p{n}", f"critique {n}", f"revise {n}", f"compare {n}", w) for n, w in enumerate(weights)]
    return Constitution("v1", tuple(principles))


def revise_all(constitution: Constitution, calls: CallsInMemory, prompts: int) -> tuple[list[list[Round]], int]:
    """The rounds of so many prompts, and how many calls were paid for."""
    model = model_over(calls)

    def recipe(prompt_id: str) -> Callable[[], Coroutine[Any, Any, list[Round]]]:
        prompt = (Message("user", f"prompt {prompt_id}"),)
        return lambda: revise(model, constitution, prompt_id, 0, prompt, "first response", SETTINGS)

    rounds = run(model, [recipe(prompt_id) for prompt_id in PROMPT_IDS[:prompts]])
    return rounds, model.usage.misses


def edited(constitution: Constitution, index: int, **changes: Any) -> Constitution:
    principles = list(constitution.principles)
    principles[index] = replace(principles[index], **changes)
    return replace(constitution, version="v2", principles=tuple(principles))


def uneven(k: int) -> list[float]:
    return [1 + (n % 4) for n in range(k)]


@dataclass
class Backfilled:
    """The first version's calls, and its rounds."""

    weights: list[float]
    constitution: Constitution
    calls: CallsInMemory
    rounds: list[list[Round]]


@pytest.fixture(scope="module", params=[16, 64], ids=lambda k: f"k={k}")
def backfilled(request: pytest.FixtureRequest) -> Backfilled:
    weights = uneven(request.param)
    constitution, calls = constitution_of(weights), CallsInMemory()
    rounds, paid = revise_all(constitution, calls, PROMPTS)
    assert paid == PROMPTS * ROUNDS * 2
    return Backfilled(weights, constitution, calls, rounds)


def paid_by(backfilled: Backfilled, version: Constitution, prompts: int = FEWER) -> tuple[list[list[Round]], float]:
    """The rounds of another version, and the share of its calls that it paid for."""
    calls = CallsInMemory()
    calls.answers = dict(backfilled.calls.answers)
    rounds, paid = revise_all(version, calls, prompts)
    return rounds, paid / (prompts * ROUNDS * 2)


def agrees(measured: float, mean: float, deviation: float, prompts: int = FEWER) -> bool:
    """Within four standard errors; one in 16 000 true statements would fail, and the draws are fixed."""
    return abs(measured - mean) <= 4 * deviation / math.sqrt(prompts)


def test_an_edited_text_costs_its_principles_share_of_a_round_and_what_follows(backfilled: Backfilled) -> None:
    p = moved_by_edit(backfilled.weights, 3)
    rounds, share = paid_by(backfilled, edited(backfilled.constitution, 3, critique_request="another"), PROMPTS)
    assert agrees(share, *paid_share(p, ROUNDS), PROMPTS)
    for number in range(1, ROUNDS + 1):
        expected = changed_by_round(p, number)
        pairs = zip(backfilled.rounds, rounds, strict=True)
        changed = sum(before[number - 1].revision != after[number - 1].revision for before, after in pairs) / PROMPTS
        assert agrees(changed, expected, math.sqrt(expected * (1 - expected)), PROMPTS)


def test_a_removed_principle_costs_its_share(backfilled: Backfilled) -> None:
    principles = backfilled.constitution.principles
    without = replace(backfilled.constitution, principles=principles[:5] + principles[6:])
    assert agrees(paid_by(backfilled, without)[1], *paid_share(moved_by_edit(backfilled.weights, 5), ROUNDS))


def test_an_added_principle_costs_the_share_it_takes(backfilled: Backfilled) -> None:
    added = Principle("new", "critique", "revise", "compare", 2.5)
    version = replace(backfilled.constitution, principles=(added, *backfilled.constitution.principles))
    assert agrees(paid_by(backfilled, version)[1], *paid_share(moved_by_addition(backfilled.weights, 2.5), ROUNDS))


@pytest.mark.parametrize("weight", [0.5, 8.0])
def test_another_weight_costs_the_difference_of_the_shares(backfilled: Backfilled, weight: float) -> None:
    p = moved_by_reweighting(backfilled.weights, 2, weight)
    version = edited(backfilled.constitution, 2, weight=weight)
    assert agrees(paid_by(backfilled, version)[1], *paid_share(p, ROUNDS))


def test_another_order_costs_nothing(backfilled: Backfilled) -> None:
    version = replace(backfilled.constitution, principles=tuple(reversed(backfilled.constitution.principles)))
    assert paid_by(backfilled, version)[1] == 0


def test_whichever_version_runs_first_both_together_pay_the_same(backfilled: Backfilled) -> None:
    version = edited(backfilled.constitution, 3, revision_request="another")
    calls = CallsInMemory()
    first, paid_first = revise_all(version, calls, FEWER)
    second, paid_second = revise_all(backfilled.constitution, calls, FEWER)
    after, share = paid_by(backfilled, version)
    assert first == after
    assert second == backfilled.rounds[:FEWER]
    assert paid_first + paid_second == round(FEWER * ROUNDS * 2 * (1 + share))


@pytest.mark.parametrize("count", [1, 4])
def test_an_edit_costs_the_judgements_in_which_its_principle_is_drawn(backfilled: Backfilled, count: int) -> None:
    settings = active_settings().judgements.model_copy(update={"principles_per_pair": count, "both_orders": True})
    calls = CallsInMemory()

    def judge_all(constitution: Constitution) -> LedgeredModel:
        model = model_over(calls)
        pairs = [Pair(one, one, (Message("user", one),), "first", "second") for one in PROMPT_IDS[:FEWER]]
        run(model, [lambda pair=pair: judge(model, constitution, pair, settings) for pair in pairs])
        return model

    assert judge_all(backfilled.constitution).usage.misses == FEWER * count * 2
    usage = judge_all(edited(backfilled.constitution, 3, comparison_request="another")).usage
    drawn = among_the_first(backfilled.weights, 3, count)
    assert count > 1 or drawn == pytest.approx(moved_by_edit(backfilled.weights, 3), abs=1e-6)
    assert agrees(usage.misses / (FEWER * 2), drawn, math.sqrt(drawn * (1 - drawn)))
    assert usage.hits + usage.misses == FEWER * count * 2
