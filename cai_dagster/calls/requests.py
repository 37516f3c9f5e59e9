"""What is asked of a language model and what comes back: requests, their ids, answers, and the protocol of a model.

It knows neither engines nor the ledger. The text of a message is data; `chat_format` turns it into tokens.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cai_dagster.errors import RowError
from cai_dagster.hashing import content_hash, seed_of
from cai_dagster.models.messages import Messages


class EmptyCompletionError(RowError):
    """The model ended its turn without a word."""

    code = "empty_completion"


class MalformedTextError(RowError):
    """The model wrote what is no valid Unicode (a lone surrogate), which no table and no tokenizer takes."""

    code = "malformed_text"


class MissingLabelError(RowError):
    """The engine did not return the log probability of a label token: a missing judgement, never one half."""

    code = "missing_label"


class RefusedRequestError(RowError):
    """A server refused this row's request, or failed at it every time while it answered others."""

    code = "refused_request"


@dataclass(frozen=True)
class Slot:
    """The place of a call in the graph; its seed depends on nothing else, so re-runs and new versions share calls."""

    stage: str
    prompt_id: str
    round: int = 0
    sample: int = 0

    def seed(self, base: int) -> int:
        """The seed of this call; `base` is the user's."""
        return seed_of(base, self.stage, self.prompt_id, self.round, self.sample)


@dataclass(frozen=True)
class Sampling:
    """How a completion is drawn. Temperature 0 is greedy; `seed` is the base of every slot's own."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """One call: the dialogue so far, how the answer is drawn, and the words already put into the model's mouth.

    `attempt` counts the answers that a user has had drawn anew (`cai retry`): each is another call with another seed.
    """

    messages: Messages
    slot: Slot
    sampling: Sampling = Sampling()
    prefill: str = ""
    attempt: int = 0

    @property
    def seed(self) -> int | None:
        """The seed the engine is given; None when nothing is drawn."""
        if self.sampling.temperature == 0:
            return None
        seed = self.slot.seed(self.sampling.seed)
        return seed_of(seed, self.attempt) if self.attempt else seed

    def again(self, max_tokens: int | None) -> "Request":
        """The same question asked once more, with room for an answer of `max_tokens` where that is given."""
        sampling = self.sampling if max_tokens is None else replace(self.sampling, max_tokens=max_tokens)
        return replace(self, sampling=sampling, attempt=self.attempt + 1)

    def completion_id(self, model_id: str) -> str:
        """SHA-256 of everything that decides the completion.

        The messages stand for their token ids: the model's identity covers tokenizer, chat template and the way
        this program renders them.
        """
        sampling = {**vars(self.sampling), "seed": self.seed}
        return content_hash(["complete", model_id, self._text(), sampling])

    def choice_id(self, model_id: str, choices: tuple[str, ...]) -> str:
        """SHA-256 of everything that decides the choices' log probabilities: nothing is drawn, so no sampling."""
        return content_hash(["choose", model_id, self._text(), choices])

    def _text(self) -> list[Any]:
        text: list[Any] = [[(message.role, message.content) for message in self.messages], self.prefill]
        return [*text, self.attempt] if self.attempt else text


@dataclass(frozen=True)
class Answer:
    """What an engine returned, as the ledger keeps it. `logprobs` are those of the choices, where any were given.

    `cached_tokens`, which it does not keep: the prompt tokens that the engine found in its prefix cache.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    logprobs: tuple[float | None, ...] | None = None
    cached_tokens: int = field(default=0, compare=False)

    def says_the_same(self, other: "Answer") -> bool:
        """Whether a reader of both would see no difference: what they cost does not count."""
        return (self.text, self.finish_reason, self.logprobs) == (other.text, other.finish_reason, other.logprobs)


@dataclass(frozen=True)
class PaidCall:
    """One answer with what it was an answer to."""

    request_id: str
    model_id: str
    slot: Slot
    answer: Answer


@dataclass(frozen=True)
class Claimed:
    """What became of a claim: the calls that are ours to pay for, and those that others are paying for.

    The rest has been answered since.
    """

    ours: Set[str]
    others: Mapping[str, str]
    """Request id → who has claimed it."""


@dataclass(frozen=True)
class Completion:
    """A completion, the id of its call in the ledger, and what the model thought before it, if it does.

    `paid`: the call was made just now, and not found in the ledger.
    """

    text: str
    finish_reason: str
    request_id: str
    reasoning: str | None = None
    paid: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class ChoiceLogprobs:
    """log P of each choice as the next token after the prefill, in the order of choices. `paid`: as of Completion."""

    logprobs: tuple[float, ...]
    request_id: str
    paid: bool = field(default=False, compare=False)

    @property
    def mass(self) -> float:
        """Probability of all choices together. Near 0, the choices were not what the model would say at all."""
        return sum(math.exp(logprob) for logprob in self.logprobs)


class LanguageModel(Protocol):
    """What the recipes call. Both methods raise RowError for what is wrong with one row only."""

    @property
    def model_id(self) -> str:
        """Identity of weights, tokenizer and template; part of every request's id."""
        ...

    async def complete(self, request: Request) -> Completion:
        """The model's answer."""
        ...

    async def choose(self, request: Request, choices: tuple[str, ...]) -> ChoiceLogprobs:
        """How probable each choice is as the continuation of the prefill."""
        ...

    def tells_apart(self, prefill: str, choices: tuple[str, ...]) -> bool:
        """Whether the tokenizer continues the prefill with each choice in one token of its own."""
        ...


class Engine(Protocol):
    """What serves a model: raw calls, paid each time. `model_calls` puts the ledger in front of it."""

    async def complete(self, request: Request) -> Answer:
        """Generate."""
        ...

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:
        """Log probabilities of the choices."""
        ...
