"""Several principles in one prompt: the model weighs them against each other itself.

Bai et al. 2022 ask for one principle at a time (section 4.1) and found that an ensemble over principles gives better
calibrated labels; all in one prompt, as in NeMo-Aligner's constitutional recipe, costs one call for as many. One
judgement a pair and order; its `principle_id` is the hash of the principles' ids.
"""

from collections.abc import Sequence

from cai_dagster.calls.requests import LanguageModel, Request, Slot
from cai_dagster.constitution.constitution import Comparison, Principle
from cai_dagster.inputs.pairs import Order, Pair
from cai_dagster.judging.judgement import STAGE, Judgement
from cai_dagster.judging.questions import (
    ANSWER,
    LABELS,
    PREFILL,
    comparison_question,
    dialogue,
    example_question,
    example_turns,
)
from cai_dagster.judging.settings import JudgingMethod
from cai_dagster.models.messages import Messages


async def judge_several_principles(
    model: LanguageModel,
    pair: Pair,
    principles: Sequence[Principle],
    orders: Sequence[Order],
    examples: Sequence[Comparison],
) -> list[Judgement]:
    """All principles together, in each order."""
    judgements: list[Judgement] = []
    for order in orders:
        messages = judge_messages(pair, principles, order, examples)
        label = await model.choose(Request(messages, Slot(STAGE, pair.prompt_id), prefill=PREFILL), LABELS)
        judgements.append(Judgement(JudgingMethod.several_principles, tuple(principles), order, label))
    return judgements


def judge_messages(
    pair: Pair, principles: Sequence[Principle], order: Order, examples: Sequence[Comparison]
) -> Messages:
    """The few-shot examples with their answers, then the question; the principles as a numbered list."""
    shown = [example_turns(example_question(one, _request([one.comparison_request])), one) for one in examples]
    return dialogue(shown, comparison_question(pair, order, _request([one.comparison_request for one in principles])))


def _request(comparison_requests: Sequence[str]) -> str:
    numbered = "\n".join(f"{number}. {request}" for number, request in enumerate(comparison_requests, 1))
    return f"Judge by all of these together:\n{numbered}\nWhich response is better on the whole?\n{ANSWER}"
