"""Judging: which of two completions agrees better with a principle, as log probabilities of (A) and (B).

One principle, two options, a prefilled answer (Bai et al. 2022, section 4.1). The pair stands before the principle,
so that one cached prefix serves every principle judged on it. It knows no label policy: it returns evidence.
"""

from dataclasses import dataclass
from typing import Any, Literal

from cai_dagster.constitution import Constitution, Principle
from cai_dagster.requests import ChoiceLogprobs, LanguageModel, Message, Messages, Request, Slot
from cai_dagster.settings import JudgementsSettings

STAGE = "judgements"
LABELS = ("A", "B")
PREFILL = "The better response is ("

Order = Literal["01", "10"]


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt."""

    pair_id: str
    prompt_id: str
    prompt: Messages
    completion_0: str
    completion_1: str


@dataclass(frozen=True)
class Judgement:
    """log P(A) and log P(B) of one pair under one principle in one order."""

    principle: Principle
    order: Order
    label: ChoiceLogprobs

    def to_row(self) -> dict[str, Any]:
        """The columns of `judgements` that one judgement decides."""
        return {
            "principle_id": self.principle.id,
            "order": self.order,
            "logp_a": self.label.logprobs[0],
            "logp_b": self.label.logprobs[1],
            "rationale": None,
            "request_id": self.label.request_id,
        }


async def judge(
    model: LanguageModel, constitution: Constitution, pair: Pair, settings: JudgementsSettings
) -> list[Judgement]:
    """Each drawn principle alone, in one order or in both."""
    orders: tuple[Order, ...] = ("01", "10") if settings.both_orders else ("01",)
    count = settings.principles_per_pair
    judgements: list[Judgement] = []
    for order in orders:
        for principle in constitution.draw(pair.pair_id, STAGE, 0, count, settings.seed):
            request = Request(judge_messages(pair, principle, order), Slot(STAGE, pair.prompt_id), prefill=PREFILL)
            judgements.append(Judgement(principle, order, await model.choose(request, LABELS)))
    return judgements


def judge_messages(pair: Pair, principle: Principle, order: Order) -> Messages:
    """The question. Every line of a quoted text begins with `>`, so that no text can impersonate the frame."""
    first, second = pair.completion_0, pair.completion_1
    if order == "10":
        first, second = second, first
    conversation = "\n".join(f"{message.role}:\n{quote(message.content)}" for message in pair.prompt)
    question = (
        'Compare two responses of an AI assistant to a conversation. Quoted lines begin with ">".\n\n'
        f"Conversation:\n{conversation}\n\n"
        f"Response (A):\n{quote(first)}\n\n"
        f"Response (B):\n{quote(second)}\n\n"
        f"{principle.comparison_request}\nAnswer with (A) or (B)."
    )
    return (Message("user", question),)


def quote(text: str) -> str:
    """The text with `> ` before each of its lines, whatever it uses as line breaks."""
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])
