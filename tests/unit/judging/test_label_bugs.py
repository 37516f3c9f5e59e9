"""Label bugs that other programs shipped, each with a test that it is not here. The numbers are those of our survey.

7 (pairs that are identical after truncation) is in test_reward_modelling, 10 (multi-turn transcripts that are split
wrongly) belongs to the import of human preferences.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.requests import MissingLabelError, Request
from cai_dagster.calls.row_stream import run_rows
from cai_dagster.constitution.constitution import Comparison, Constitution, Principle
from cai_dagster.home import Home
from cai_dagster.inputs.pairs import Pair
from cai_dagster.judging.judge import judge
from cai_dagster.judging.label_policies import disregarded, label_pairs
from cai_dagster.judging.scoring import score_completion
from cai_dagster.judging.settings import (
    JudgementsSettings,
    JudgingMethod,
    LabelPolicy,
    PreferencePairsSettings,
    PrincipleEnsemble,
)
from cai_dagster.lake.staging import StagedRows
from cai_dagster.models.messages import Message
from cai_dagster.plan.stages import judgements_stage
from cai_dagster.settings import active_settings
from tests.scripted import ScriptedEngine, ScriptedModel

PRINCIPLES = tuple(Principle(f"p{number}", "c", "r", f"Which is better by rule {number}?") for number in range(3))
EXAMPLE = Comparison("Hello", "Hello!", "Go away.", "Which is more polite?", "A")
CONSTITUTION = Constitution("v1", PRINCIPLES, comparisons=(EXAMPLE,))
PAIR = Pair("ab", "cd", (Message("system", "be brief"), Message("user", "the question")), "good text", "bad text")

Logprobs = Callable[[Request], tuple[float | None, ...]]


def judging(**changes: Any) -> JudgementsSettings:
    return active_settings().judgements.model_copy(update=changes)


def labelling(policy: LabelPolicy = LabelPolicy.soft) -> PreferencePairsSettings:
    return PreferencePairsSettings(label_policy=policy, ensemble=PrincipleEnsemble.mean, clamp_at=0.6)


def likes_good(request: Request) -> tuple[float, float]:
    """0.9 for whichever letter stands before the good text."""
    first = request.messages[-1].content.split("Response (A):\n> ")[1]
    return (math.log(0.9), math.log(0.1)) if first.startswith("good") else (math.log(0.1), math.log(0.9))


async def judged(logprobs: Logprobs, pair: Pair = PAIR, **changes: Any) -> pl.DataFrame:
    """The pair's rows of `judgements`."""
    made = await judge(ScriptedModel(ScriptedEngine(logprobs=logprobs)), CONSTITUTION, pair, judging(**changes))
    return pl.DataFrame(
        [{"pair_id": pair.pair_id, **judgement.to_row()} for judgement in made], infer_schema_length=None
    )


def labels(
    evidence: pl.DataFrame, settings: PreferencePairsSettings, pairs: Sequence[Pair] = (PAIR,)
) -> tuple[list[Any], dict[str, int]]:
    """Chosen, rejected and P(chosen) of each preference pair, and how many pairs gave none, by reason."""
    rows = [{"pair_id": p.pair_id, "completion_0": p.completion_0, "completion_1": p.completion_1} for p in pairs]
    frame = pl.LazyFrame(rows)
    labelled = label_pairs(frame, evidence.lazy(), settings).collect()
    counted = {reason: n for reason, n in disregarded(frame, evidence.lazy(), settings).items() if n}
    return labelled.select("chosen", "rejected", "p_chosen").rows(), counted


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("both_orders", [False, True])
async def test_1_the_verdict_counts_whichever_way_the_pair_is_shown(both_orders: bool, swapped: bool) -> None:
    """An un-swap whose condition could never be true ignored the judge."""
    pair = replace(PAIR, completion_0="bad text", completion_1="good text") if swapped else PAIR
    evidence = await judged(likes_good, pair, both_orders=both_orders)
    assert labels(evidence, labelling(), [pair]) == ([("good text", "bad text", pytest.approx(0.9))], {})


async def test_2_probabilities_are_normalised_before_they_are_clamped() -> None:
    """P(A) = 0.009 and P(B) = 0.001, each clipped to 0.4, would be a tie."""
    small = (math.log(0.009), math.log(0.001))
    evidence = await judged(lambda request: small, method=JudgingMethod.rationale, both_orders=False)
    assert labels(evidence, labelling(LabelPolicy.clamped)) == ([("good text", "bad text", pytest.approx(0.6))], {})


@pytest.mark.parametrize("policy", LabelPolicy)
async def test_3_a_verdict_that_is_missing_is_missing(policy: LabelPolicy) -> None:
    """Not one half, not a random number, not −1 in a mean."""
    evidence = await judged(likes_good)
    none_at_all = evidence.with_columns(logp_a=pl.lit(-math.inf), logp_b=pl.lit(-math.inf))
    assert labels(none_at_all, labelling(policy)) == ([], {"not judged": 1})
    assert labels(evidence.clear(), labelling(policy)) == ([], {"not judged": 1})


async def test_3_the_order_that_was_judged_decides_alone_where_the_other_is_missing() -> None:
    evidence = await judged(likes_good)
    one_order = evidence.with_columns(
        pl.when(order="10").then(-math.inf).otherwise(column).alias(column) for column in ("logp_a", "logp_b")
    )
    assert labels(one_order, labelling())[0] == [("good text", "bad text", pytest.approx(0.9))]


@pytest.mark.parametrize("policy", LabelPolicy)
async def test_4_ties_and_equal_texts_make_no_pair_and_are_counted(policy: LabelPolicy) -> None:
    """All scores tied: chosen and rejected were the same text, elsewhere a random pair."""
    evidence = await judged(lambda request: (math.log(0.1),) * 10, method=JudgingMethod.scoring)
    assert labels(evidence, labelling(policy)) == ([], {"ties": 1})
    same = replace(PAIR, completion_1=PAIR.completion_0)
    assert labels(evidence, labelling(policy), [same]) == ([], {"identical texts": 1})


def test_5_every_row_is_judged_or_set_aside_with_its_reason(home: Home, tmp_path: Path) -> None:
    """An exception in a batch dropped its rows; the last, partial batch was dropped."""
    turns = [{"role": "user", "content": "the question"}]
    rows = [
        {
            "pair_id": f"{n:x}",
            "prompt_id": "cd",
            "messages": turns,
            "completion_0": f"text {n}",
            "completion_1": "other",
            "source": "sl_cai_model",
            "request_id_1": "ef",
        }
        for n in range(7)
    ]

    def logprobs(request: Request) -> tuple[float | None, ...]:
        return (None, -0.1) if "text 3" in request.messages[-1].content else (-0.1, -2.5)

    stage = judgements_stage(CONSTITUTION, judging(both_orders=False))
    staged = StagedRows(tmp_path, "judgements", "v1")
    model = LedgeredModel("m", lambda: ScriptedEngine(logprobs=logprobs), Ledger(home.ledger))
    run_rows(rows, len(rows), stage.recipe, model, staged, stage.row_id, 3, lambda progress: None)
    assert (staged.row_count, staged.rejected_count, staged.reasons) == (6, 1, {"missing_label": 1})


async def test_6_whatever_the_judge_is_shown_is_part_of_the_key() -> None:
    """A system prompt that was not: a changed constitution got stale answers."""

    async def ids(constitution: Constitution, pair: Pair, method: JudgingMethod) -> set[str]:
        script = {"logprobs": lambda request: (-3.0,) * 10 if "score" in request.prefill else (-0.2, -1.8)}
        settings = judging(method=method, principles_per_pair=3)
        made = await judge(ScriptedModel(ScriptedEngine(**script)), constitution, pair, settings)
        return {judgement.label.request_id for judgement in made}

    reworded = tuple(replace(one, comparison_request=f"{one.comparison_request}!") for one in PRINCIPLES)
    scored = replace(EXAMPLE, rationale="It greets.", score_a=9, score_b=1)
    weighted = tuple(replace(one, weight=2.0) for one in PRINCIPLES)
    for method in JudgingMethod:
        if method == JudgingMethod.direct:  # shows nothing to any judge
            continue
        taught = replace(CONSTITUTION, comparisons=(scored,))
        before = await ids(taught, PAIR, method)
        assert before.isdisjoint(await ids(replace(taught, principles=reworded), PAIR, method))
        assert before.isdisjoint(await ids(replace(taught, comparisons=(replace(scored, prompt="Hi"),)), PAIR, method))
        assert before.isdisjoint(await ids(replace(taught, comparisons=()), PAIR, method))
        other_system = replace(PAIR, prompt=(Message("system", "be long"), *PAIR.prompt[1:]))
        assert before.isdisjoint(await ids(taught, other_system, method))
        assert before == await ids(replace(taught, version="v2", principles=weighted), PAIR, method)


async def test_8_a_score_of_one_is_not_ten() -> None:
    """A parser of ratings turned 1 into 10 in about 2,000 rows."""

    def logprobs(request: Request) -> tuple[float, ...]:
        return (math.log(0.01), math.log(0.99)) if request.prefill.endswith("1") else (0.0, *[-math.inf] * 8)

    model = ScriptedModel(ScriptedEngine(logprobs=logprobs), ten_is_a_token=False)
    score = await score_completion(model, "cd", PAIR.prompt, "a text", PRINCIPLES[0])
    assert score.expected == pytest.approx(1 * 0.99 + 10 * 0.01)


async def test_9_a_label_outside_the_returned_top_tokens_is_no_judgement(home: Home) -> None:
    """It is not probability 0 for that label, and not one half: the row is set aside."""
    model = LedgeredModel("m", lambda: ScriptedEngine(logprobs=lambda request: (None, -0.4)), Ledger(home.ledger))
    with pytest.raises(MissingLabelError, match="the engine returned"):
        await judge(model, CONSTITUTION, PAIR, judging())
