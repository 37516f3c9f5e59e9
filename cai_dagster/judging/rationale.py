"""A rationale first, then the label: Bai et al. 2022, section 4.1 (chain of thought); Lee et al. 2023, section 2.1.

The model reasons about the pair (greedily: no draw decides a label), and the label is the next token after an answer
begun for it, in a turn of its own, so that no rationale can pose as the question. Such labels are near 0 or 1, which
is why Bai et al. clamp them: see `label_policies`.
"""

from collections.abc import Sequence

from cai_dagster.calls.requests import LanguageModel, Request, Sampling, Slot
from cai_dagster.constitution.constitution import Comparison, Principle
from cai_dagster.inputs.pairs import Order, Pair
from cai_dagster.judging.judgement import STAGE, Judgement
from cai_dagster.judging.questions import (
    ANSWER,
    LABELS,
    PREFILL,
    comparison_question,
    dialogue,
    example_answer,
    example_question,
)
from cai_dagster.judging.settings import JudgingMethod
from cai_dagster.models.messages import Message, Messages

RATIONALE = f"{STAGE}/rationale"
THINKING = "Let's think step by step:"


async def judge_after_a_rationale(
    model: LanguageModel,
    pair: Pair,
    principles: Sequence[Principle],
    orders: Sequence[Order],
    examples: Sequence[Comparison],
    max_tokens: int,
) -> list[Judgement]:
    """Each principle alone, in each order: a rationale of at most `max_tokens` tokens, and the label after it."""
    greedy = Sampling(temperature=0, max_tokens=max_tokens)
    judgements: list[Judgement] = []
    for order in orders:
        for principle in principles:
            question = rationale_messages(pair, principle, order, examples)
            slot = Slot(RATIONALE, pair.prompt_id)
            rationale = await model.complete(Request(question, slot, greedy, prefill=THINKING))
            answer = (*question, *_reasoned(rationale.text))
            label = await model.choose(Request(answer, Slot(STAGE, pair.prompt_id), prefill=PREFILL), LABELS)
            judgements.append(Judgement(JudgingMethod.rationale, (principle,), order, label, rationale))
    return judgements


def rationale_messages(pair: Pair, principle: Principle, order: Order, examples: Sequence[Comparison]) -> Messages:
    """The few-shot examples that have a rationale, then the question whose answer is a rationale."""
    shown = [
        (
            Message("user", example_question(one, _request(one.comparison_request))),
            *_reasoned(f" {one.rationale}"),
            example_answer(one),
        )
        for one in examples
        if one.rationale is not None
    ]
    return dialogue(shown, comparison_question(pair, order, _request(principle.comparison_request)))


def _request(comparison_request: str) -> str:
    return (
        f"{comparison_request}\nFirst explain, step by step, what speaks for either response. "
        "You are asked for your answer after that."
    )


def _reasoned(rationale: str) -> Messages:
    """The rationale as the model's own turn, and the question for the label."""
    return (Message("assistant", THINKING + rationale), Message("user", ANSWER))
