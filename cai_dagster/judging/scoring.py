"""Direct scoring: Lee et al. 2023, section 3. Each completion alone, from 1 to 10; its score is Σ i·P(i).

No second completion is needed: `score_completion` scores any one. Of two scored completions the first is preferred with
P(s0 > s1) + P(s0 = s1) / 2, the two scores drawn independently. There is no order and so no position bias.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from cai_dagster.calls.requests import ChoiceLogprobs, LanguageModel, MissingLabelError, Request, Slot
from cai_dagster.constitution.constitution import Comparison, Principle
from cai_dagster.inputs.pairs import Pair
from cai_dagster.judging.judgement import STAGE, Judgement, Score
from cai_dagster.judging.questions import dialogue, quote, quote_turns
from cai_dagster.judging.settings import JudgingMethod
from cai_dagster.models.messages import Message, Messages

SCORES = tuple(str(score) for score in range(1, 11))
SCORE_PREFILL = "The score is ("
_ENDS = ")"  # what the prefill opened: it follows a score that is complete


async def judge_by_scores(
    model: LanguageModel, pair: Pair, principles: Sequence[Principle], examples: Sequence[Comparison]
) -> list[Judgement]:
    """Both completions scored alone under each principle. The judgement's order is 01: completion_0 comes first."""
    judgements: list[Judgement] = []
    for principle in principles:
        first, second = [
            await score_completion(model, pair.prompt_id, pair.prompt, completion, principle, examples)
            for completion in (pair.completion_0, pair.completion_1)
        ]
        label = preference(first, second)
        judgements.append(Judgement(JudgingMethod.scoring, (principle,), "01", label, scores=(first, second)))
    return judgements


async def score_completion(
    model: LanguageModel,
    prompt_id: str,
    prompt: Messages,
    completion: str,
    principle: Principle,
    examples: Sequence[Comparison] = (),
) -> Score:
    """Log P(1) … log P(10) of one completion under one principle.

    Many tokenizers write 10 as two tokens, and then P("1") is that of 1 and of 10 together: the token after it tells
    them apart. Raises MissingLabelError where no score is possible at all.
    """
    messages = score_messages(prompt, completion, principle, examples)
    request = Request(messages, Slot(STAGE, prompt_id), prefill=SCORE_PREFILL)
    if model.tells_apart(SCORE_PREFILL, SCORES):
        asked = await model.choose(request, SCORES)
        score = Score(asked.logprobs, (asked.request_id,))
    else:
        begun = await model.choose(request, SCORES[:-1])
        after_one = await model.choose(replace(request, prefill=f"{SCORE_PREFILL}1"), ("0", _ENDS))
        score = Score(_split_one(begun.logprobs, after_one.logprobs[0]), (begun.request_id, after_one.request_id))
    if max(score.logprobs) == -math.inf:
        raise MissingLabelError(f"the model gives none of the scores {SCORES[0]} to {SCORES[-1]} any probability")
    return score


def preference(first: Score, second: Score) -> ChoiceLogprobs:
    """Log P of the first completion being the better one, and of the second.

    P(s0 > s1) + P(s0 = s1) / 2 and its complement, both times the probability that the model scores at all: their sum
    is the mass, as with the label tokens.
    """
    mass = first.log_mass + second.log_mass
    probabilities = (_wins(first.probabilities, second.probabilities), _wins(second.probabilities, first.probabilities))
    logprobs = tuple(mass + math.log(p) if p else -math.inf for p in probabilities)
    return ChoiceLogprobs(logprobs, first.request_ids[0])


def score_messages(
    prompt: Messages, completion: str, principle: Principle, examples: Sequence[Comparison] = ()
) -> Messages:
    """The few-shot examples that have scores, each completion of them alone, then the question."""
    shown = [
        (
            Message("user", _question((Message("user", one.prompt),), response, one.comparison_request)),
            Message("assistant", f"{SCORE_PREFILL}{score})."),
        )
        for one in examples
        for response, score in ((one.response_a, one.score_a), (one.response_b, one.score_b))
        if score is not None
    ]
    return dialogue(shown, _question(prompt, completion, principle.comparison_request))


def _question(prompt: Messages, completion: str, comparison_request: str) -> str:
    return (
        'Score a response of an AI assistant to a conversation. Quoted lines begin with ">".\n\n'
        f"Conversation:\n{quote_turns(prompt)}\n\n"
        f"Response:\n{quote(completion)}\n\n"
        f"Responses are compared by this question: {comparison_request}\n"
        "How well would this one do? Answer with a score from 1 (worst) to 10 (best)."
    )


def _split_one(begun: Sequence[float], zero_after_one: float) -> tuple[float, ...]:
    """Log P(1) … log P(10) from log P of the tokens 1 … 9 and of a 0 after the 1."""
    p_zero = math.exp(min(0.0, zero_after_one))
    one = begun[0] + math.log1p(-p_zero) if p_zero < 1 else -math.inf
    return (one, *begun[1:], begun[0] + min(0.0, zero_after_one))


def _wins(first: Sequence[float], second: Sequence[float]) -> float:
    """P(s > t) + P(s = t) / 2 for independent s and t."""
    below = 0.0
    wins = 0.0
    for p, q in zip(first, second, strict=True):
        wins += p * (below + q / 2)
        below += q
    return wins
