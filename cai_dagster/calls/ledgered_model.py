"""The ledger in front of an engine: the `LanguageModel` that every recipe is given.

A call that is in the ledger costs a look-up; any other is paid for once, also when two rows or two runs ask for it at
the same time: it is claimed before it is asked, and committed soon after. The engine is started by the first call that
must be paid for, not before.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from cai_dagster.calls.requests import (
    Answer,
    ChoiceLogprobs,
    Claimed,
    Completion,
    EmptyCompletionError,
    Engine,
    MalformedTextError,
    MissingLabelError,
    PaidCall,
    Request,
    Slot,
)
from cai_dagster.calls.stored_text import is_storable
from cai_dagster.calls.token_counts import TokenCounts
from cai_dagster.models.reasoning import ReasoningMarks, UnfinishedThoughtError, answer_in_text
from cai_dagster.text import printable

if TYPE_CHECKING:
    from cai_dagster.models.chat_format import ChatFormat

COMMIT_SECONDS = 0.25
LOOK_AGAIN_SECONDS = 0.25  # for the answers that other runs are paying for
LONGEST_QUOTED = 80  # characters of a text in a message

Ask = Callable[[Engine], Coroutine[Any, Any, Answer]]


class CallClaims(Protocol):
    """The calls that are being paid for; `claims.Claims` keeps them in the ledger."""

    def claim(self, request_ids: Iterable[str]) -> Claimed:
        """Claim calls before paying for them."""
        ...

    def release(self, request_ids: Iterable[str]) -> None:
        """Give up claims of calls that will not be answered."""
        ...

    def close(self) -> None:
        """Give up all claims."""
        ...


class Calls(Protocol):
    """The calls that were paid for; `ledger.Ledger` is where they are kept."""

    def get(self, request_ids: Sequence[str]) -> Mapping[str, Answer]:
        """The answers there are, by request id."""
        ...

    def put(self, paid_calls: Iterable[PaidCall]) -> set[str]:
        """Keep calls, which ends their claims; the ids of those that were there with another answer, which stays."""
        ...

    def retries(self) -> Mapping[str, int | None]:
        """The calls that are to be made again, with the longest answer asked for then (None: as before)."""
        ...

    def claims(self) -> CallClaims:
        """What a run claims before it pays."""
        ...


@dataclass
class Usage:
    """Calls and tokens of one materialization.

    Tokens are those of the calls paid for, `engine_seconds` the wall time in which at least one of them was under way.
    """

    hits: int = 0
    misses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    engine_seconds: float = field(default=0.0, compare=False)

    @property
    def tokens(self) -> TokenCounts:
        """Of prompts and completions."""
        return TokenCounts(self.prompt_tokens, self.completion_tokens, self.cached_tokens)

    def __add__(self, other: "Usage") -> "Usage":
        """Of both together."""
        return Usage(
            self.hits + other.hits,
            self.misses + other.misses,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.engine_seconds + other.engine_seconds,
        )


class LedgeredModel:
    """A language model whose every answer is in the ledger. Belongs to one event loop; `commit` at its end."""

    def __init__(
        self,
        model_id: str,
        start_engine: Callable[[], Engine],
        ledger: Calls,
        chat_format: "Callable[[], ChatFormat] | None" = None,
        reasoning_marks: ReasoningMarks | None = None,
    ) -> None:
        self._model_id = model_id
        self._start_engine = start_engine
        self._ledger = ledger
        self._claims = ledger.claims()
        self._load_chat_format = chat_format
        self._reasoning_marks = reasoning_marks
        self._engine: Engine | None = None
        self._start_failure: Exception | None = None
        self._commit_failure: Exception | None = None
        self._lookups: dict[str, asyncio.Future[Answer | None]] = {}
        self._asked: dict[str, asyncio.Future[Answer] | None] = {}  # a future where more than one waits
        self._paid_by_others: dict[str, asyncio.Future[Answer | None]] = {}  # those that wait for another run's answer
        self._given_up: set[str] = set()  # claimed by us, and failed
        self._uncommitted: dict[str, PaidCall] = {}
        self._commit_timer: asyncio.TimerHandle | None = None
        self._under_way = 0
        self._under_way_since = 0.0
        self.usage = Usage()
        self.overruled: set[str] = set()
        """Calls that have another answer in the ledger than here: another run took over the claim, and paid first."""

    @property
    def model_id(self) -> str:
        """Identity of weights, tokenizer and template."""
        return self._model_id

    async def complete(self, request: Request) -> Completion:
        """The completion from the ledger or the engine.

        Raises EmptyCompletionError when there is no visible character in it, MalformedTextError when it is no valid
        Unicode; the call stays in the ledger.
        """
        request_id = request.completion_id(self._model_id)
        while request_id in self._retries:
            request = request.again(self._retries[request_id])
            request_id = request.completion_id(self._model_id)
        answer = await self._answer(request_id, request.slot, lambda engine: engine.complete(request))
        try:
            said = answer_in_text(answer.text, self._reasoning_marks)
        except UnfinishedThoughtError as error:
            raise EmptyCompletionError(
                f"{request.slot.stage}, round {request.slot.round}: finish_reason {answer.finish_reason} after "
                f"{answer.completion_tokens} tokens of {error}; give it more max_tokens (request {request_id})"
            ) from error
        if not said.text.strip():
            raise EmptyCompletionError(
                f"{request.slot.stage}, round {request.slot.round}: finish_reason {answer.finish_reason} after "
                f"{answer.completion_tokens} tokens without text (request {request_id})"
            )
        if not is_storable(answer.text):
            quoted = printable(answer.text, LONGEST_QUOTED)
            raise MalformedTextError(
                f"{request.slot.stage}, round {request.slot.round}: no valid Unicode: {quoted} (request {request_id})"
            )
        return Completion(said.text, answer.finish_reason, request_id, said.reasoning, request_id in self._uncommitted)

    async def choose(self, request: Request, choices: tuple[str, ...]) -> ChoiceLogprobs:
        """The choices' log probabilities from the ledger or the engine.

        Raises MissingLabelError when the engine did not return one of them.
        """
        request_id = request.choice_id(self._model_id, choices)
        while request_id in self._retries:
            request = request.again(None)
            request_id = request.choice_id(self._model_id, choices)
        answer = await self._answer(request_id, request.slot, lambda engine: engine.choose(request, choices))
        logprobs = tuple(logprob for logprob in answer.logprobs or () if logprob is not None)
        if len(logprobs) != len(choices):
            raise MissingLabelError(f"the engine returned {answer.logprobs} for {choices} (request {request_id})")
        return ChoiceLogprobs(logprobs, request_id, request_id in self._uncommitted)

    def tells_apart(self, prefill: str, choices: tuple[str, ...]) -> bool:
        """Whether each choice is one token after the prefill. Needs the tokenizer, not the engine.

        Without a tokenizer they are taken to be: an engine refuses choices that are not.
        """
        return self._chat_format is None or self._chat_format.tells_apart(prefill, choices)

    @cached_property
    def _chat_format(self) -> "ChatFormat | None":
        return self._load_chat_format() if self._load_chat_format else None

    @cached_property
    def _retries(self) -> Mapping[str, int | None]:
        return self._ledger.retries()

    @property
    def paid_by_others(self) -> int:
        """How many calls wait for the answer that another run is paying for."""
        return len(self._paid_by_others)

    def commit(self) -> None:
        """Write what was paid for since the last commit to the ledger, and give up all claims."""
        self._write()
        self._claims.close()

    def _write(self) -> None:
        if self._commit_timer is not None:
            self._commit_timer.cancel()
            self._commit_timer = None
        if self._uncommitted:
            self.overruled |= self._ledger.put(self._uncommitted.values())
            self._uncommitted.clear()
        if self._given_up:
            self._claims.release(self._given_up)
            self._given_up.clear()
        self._commit_failure = None

    async def _answer(self, request_id: str, slot: Slot, ask: Ask) -> Answer:
        """One look-up and at most one payment for all who ask at the same time."""
        if request_id in self._asked:
            self.usage.hits += 1
            others = self._asked[request_id] or asyncio.get_running_loop().create_future()
            self._asked[request_id] = others
            return await others
        self._asked[request_id] = None
        try:
            answer = await self._look_up(request_id)
            if answer is None:
                answer = await self._pay(request_id, slot, ask)
            else:
                self.usage.hits += 1
        except BaseException as error:
            others = self._asked.pop(request_id)
            if others is not None and not others.done():
                others.set_exception(error)
            raise
        others = self._asked.pop(request_id)
        if others is not None and not others.done():
            others.set_result(answer)
        return answer

    async def _look_up(self, request_id: str) -> Answer | None:
        """One ledger query for all calls that ask in the same turn of the event loop."""
        loop = asyncio.get_running_loop()
        if not self._lookups:
            loop.call_soon(self._resolve_lookups)
        self._lookups[request_id] = waiting = loop.create_future()
        return await waiting

    def _resolve_lookups(self) -> None:
        """Answer those who wait: with what is known, or with None where the call is now theirs to pay for."""
        lookups, self._lookups = self._lookups, {}
        waiting = {request_id: future for request_id, future in lookups.items() if not future.cancelled()}
        try:
            known = {one: self._uncommitted[one].answer for one in waiting if one in self._uncommitted}
            known |= self._ledger.get([one for one in waiting if one not in known])
            missing = waiting.keys() - known.keys()
            others = self._claim(missing, known) if missing else frozenset[str]()
        except Exception as error:  # noqa: BLE001  (it belongs to those who wait)
            for future in waiting.values():
                future.set_exception(error)
            return
        for request_id, future in waiting.items():
            if request_id not in others:
                future.set_result(known.get(request_id))
        if others:
            if not self._paid_by_others:
                asyncio.get_running_loop().call_later(LOOK_AGAIN_SECONDS, self._look_again)
            self._paid_by_others |= {request_id: waiting[request_id] for request_id in others}

    def _claim(self, missing: Set[str], known: dict[str, Answer]) -> Set[str]:
        """Claim calls; those that others are paying for. What was answered in the meantime is added to `known`.

        The engine is started first: who has a claim never waits for an accelerator that another run holds. What was
        paid for is kept before more is claimed: a killed run loses what was under way, and no more.
        """
        self._started_engine()
        self._commit_or_note()
        claimed = self._claims.claim(missing)
        since = missing - claimed.ours - claimed.others.keys()
        if since:
            known |= self._ledger.get(sorted(since))
        return claimed.others.keys()

    def _look_again(self) -> None:
        """Look for the answers of other runs; claims that they gave up are ours."""
        waiting, self._paid_by_others = self._paid_by_others, {}
        self._lookups |= waiting
        self._resolve_lookups()

    async def _pay(self, request_id: str, slot: Slot, ask: Ask) -> Answer:
        if self._commit_failure is not None:  # what cannot be kept is not worth paying for
            self._given_up.add(request_id)
            raise self._commit_failure
        engine = self._started_engine()
        started = time.perf_counter()
        if not self._under_way:
            self._under_way_since = started
        self._under_way += 1
        try:
            answer = await ask(engine)
        except BaseException:
            self._given_up.add(request_id)
            self._commit_soon()
            raise
        finally:
            ended = time.perf_counter()
            self._under_way -= 1
            if not self._under_way:
                self.usage.engine_seconds += ended - self._under_way_since
        answer = replace(answer, seconds=ended - started)
        self._keep(PaidCall(request_id, self._model_id, slot, answer))
        self.usage.misses += 1
        self.usage.prompt_tokens += answer.prompt_tokens
        self.usage.completion_tokens += answer.completion_tokens
        self.usage.cached_tokens += answer.cached_tokens
        return answer

    def _started_engine(self) -> Engine:
        """The engine; one that failed to start is not tried again for each of the calls that wait for it."""
        if self._start_failure is not None:
            raise RuntimeError("the engine could not be started") from self._start_failure
        if self._engine is None:
            try:
                self._engine = self._start_engine()
            except Exception as error:
                self._start_failure = error
                raise
        return self._engine

    def _keep(self, call: PaidCall) -> None:
        self._uncommitted[call.request_id] = call
        self._commit_soon()

    def _commit_soon(self) -> None:
        """Commit before the next claim, or COMMIT_SECONDS from now."""
        if self._commit_timer is None:
            self._commit_timer = asyncio.get_running_loop().call_later(COMMIT_SECONDS, self._commit_or_note)

    def _commit_or_note(self) -> None:
        """Commit; a failure belongs to the next call, because nobody waits for a timer."""
        try:
            self._write()
        except Exception as error:  # noqa: BLE001
            self._commit_failure = error
