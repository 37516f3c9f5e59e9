"""One principle, two options, a prefilled answer: Bai et al. 2022, section 4.1; Lee et al. 2023, section 2.1.

The model is asked which of two completions a principle prefers, and its answer is begun for it, so that the next token
is (A) or (B). Of several principles each is judged alone. It knows no settings: what is judged, under which
principles and in which orders is said by the caller.
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


async def judge_one_principle(
    model: LanguageModel,
    pair: Pair,
    principles: Sequence[Principle],
    orders: Sequence[Order],
    examples: Sequence[Comparison],
) -> list[Judgement]:
    """Each principle alone, in each order."""
    judgements: list[Judgement] = []
    for order in orders:
        for principle in principles:
            messages = judge_messages(pair, principle, order, examples)
            label = await model.choose(Request(messages, Slot(STAGE, pair.prompt_id), prefill=PREFILL), LABELS)
            judgements.append(Judgement(JudgingMethod.one_principle, (principle,), order, label))
    return judgements


def judge_messages(pair: Pair, principle: Principle, order: Order, examples: Sequence[Comparison] = ()) -> Messages:
    """The few-shot examples with their answers, then the question."""
    shown = [example_turns(example_question(one, _request(one.comparison_request)), one) for one in examples]
    return dialogue(shown, comparison_question(pair, order, _request(principle.comparison_request)))


def _request(comparison_request: str) -> str:
    return f"{comparison_request}\n{ANSWER}"
