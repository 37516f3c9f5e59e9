"""A model that counts instead of answering: the ledger gives the answers that it has, any other call is counted as new.

A call that nobody has made gets a stand-in that no later request has ever contained, so that what depends on it is
counted as new too. Only an answer that nobody has seen yet can lower the counts: where it is word for word an older
one, what follows it is in the ledger; where there is no word in it, its row is set aside.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Protocol

from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.requests import Answer, Claimed, PaidCall, Request
from cai_dagster.models.chat_format import ChatFormat, fitting
from cai_dagster.models.weights import Weights

_STAND_IN = "(an answer not known yet: "


class PlannedModel(Protocol):
    """A language model as the configuration names it; `configured_model.ConfiguredModel` is one."""

    @property
    def max_model_len(self) -> int:
        """Context length in tokens."""
        ...

    @property
    def rows_in_flight(self) -> int:
        """Rows in work at once."""
        ...

    def weights(self) -> Weights:
        """The configured model on this machine, for training."""
        ...

    def served_weights(self) -> Weights:
        """The configured model, for asking it."""
        ...

    def chat_format(self) -> ChatFormat:
        """Its tokenizer and template."""
        ...

    def model_id(self, weights: Weights) -> str:
        """The identity of weights served by these settings."""
        ...


@dataclass(frozen=True)
class NewCalls:
    """Calls that nobody has made, and the most tokens of their completions.

    `quoting` are those whose prompt quotes a text that nobody has seen yet, `prompt_tokens` is of the other prompts.
    """

    calls: int = 0
    quoting: int = 0
    prompt_tokens: int = 0
    most_completion_tokens: int = 0

    def __add__(self, other: "NewCalls") -> "NewCalls":
        return NewCalls(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "NewCalls") -> "NewCalls":
        return NewCalls(*(one - another for one, another in zip(astuple(self), astuple(other), strict=True)))


class CountedCalls:
    """The ledger, and the calls that the plan has counted as new; nothing is written."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._counted: dict[bytes, int] = {}  # with the number of its choices, 0 for a completion
        self.new_by_stage: dict[str, NewCalls] = {}

    def get(self, request_ids: Sequence[str]) -> Mapping[str, Answer]:
        """The answers in the ledger, and stand-ins for the calls that are counted already."""
        keys = {one: bytes.fromhex(one) for one in request_ids}
        counted = {one: _stand_in(one, self._counted[key]) for one, key in keys.items() if key in self._counted}
        return {**self._ledger.get([one for one in request_ids if one not in counted]), **counted}

    def put(self, paid_calls: Iterable[PaidCall]) -> set[str]:
        """Count calls as new; none has another answer."""
        for call in paid_calls:
            self._counted[bytes.fromhex(call.request_id)] = len(call.answer.logprobs or ())
        return set()

    def retries(self) -> Mapping[str, int | None]:
        """The calls that are to be made again, as the ledger has them."""
        return self._ledger.retries()

    def claims(self) -> "NoClaims":
        """A plan pays for nothing."""
        return NoClaims()


class NoClaims:
    """All calls are ours to count."""

    def claim(self, request_ids: Iterable[str]) -> Claimed:
        """All of them."""
        return Claimed(frozenset(request_ids), {})

    def release(self, request_ids: Iterable[str]) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""


class CountingEngine:
    """Answers with stand-ins. It refuses what an engine would refuse: prompts that do not fit the context."""

    def __init__(self, model: PlannedModel, model_id: str, calls: CountedCalls) -> None:
        self._model = model
        self._model_id = model_id
        self._calls = calls

    @cached_property
    def _format(self) -> ChatFormat:
        return self._model.chat_format()

    async def complete(self, request: Request) -> Answer:
        """A stand-in for the completion."""
        ids = self._format.prompt_ids(request.messages, request.prefill)
        fitting(ids, request.sampling.max_tokens, self._model.max_model_len)
        self._note(request, len(ids), request.sampling.max_tokens)
        return _stand_in(request.completion_id(self._model_id))

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:
        """A stand-in for the log probabilities: all choices are as likely."""
        ids = self._format.prompt_ids(request.messages, request.prefill)
        fitting(ids, 1, self._model.max_model_len)
        self._note(request, len(ids), 1)
        return _stand_in(request.choice_id(self._model_id, choices), len(choices))

    def _note(self, request: Request, prompt_tokens: int, most: int) -> None:
        quotes = any(_STAND_IN in message.content for message in request.messages)
        new, stage = self._calls.new_by_stage, request.slot.stage
        one = NewCalls(1, int(quotes), 0 if quotes else prompt_tokens, most)
        new[stage] = new.get(stage, NewCalls()) + one


def _stand_in(request_id: str, choices: int = 0) -> Answer:
    logprobs = (-math.log(choices),) * choices if choices else None
    return Answer(f"{_STAND_IN}{request_id})", "stop", 0, 0, 0.0, logprobs)


def counting_model(model: PlannedModel, model_id: str, calls: CountedCalls) -> LedgeredModel:
    """The model behind the ledger and the calls counted so far, with an engine that counts."""
    return LedgeredModel(model_id, lambda: CountingEngine(model, model_id, calls), calls, model.chat_format)
