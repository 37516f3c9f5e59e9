"""Scripted fakes: engines whose answers are decided by the test. They exist only here."""

import asyncio
from collections.abc import Callable

from cai_dagster.calls.requests import Answer, ChoiceLogprobs, Completion, Request

Script = Callable[[Request], str]


class ScriptedEngine:
    """An engine that answers with what `script` says of a request, and remembers the requests in order.

    `delay` seconds pass before each answer.
    """

    def __init__(
        self,
        script: Script = lambda request: f"{request.slot.stage} {request.slot.round} of {request.slot.prompt_id}",
        logprobs: Callable[[Request], tuple[float | None, ...]] = lambda request: (-0.2, -1.8),
        delay: Callable[[Request], float] = lambda request: 0.0,
    ) -> None:
        self.script = script
        self.logprobs = logprobs
        self.delay = delay
        self.requests: list[Request] = []

    async def complete(self, request: Request) -> Answer:
        self.requests.append(request)
        await asyncio.sleep(self.delay(request))
        text = self.script(request)
        return Answer(text, "stop", 10, max(1, len(text.split())), 0.0)

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:
        self.requests.append(request)
        await asyncio.sleep(self.delay(request))
        return Answer("", "stop", 10, 1, 0.0, self.logprobs(request))


class ScriptedModel:
    """A language model without a ledger, for tests of recipes; its tokenizer has a token for 10, or has none."""

    model_id = "scripted"

    def __init__(self, engine: ScriptedEngine, ten_is_a_token: bool = True) -> None:
        self.engine = engine
        self.ten_is_a_token = ten_is_a_token

    async def complete(self, request: Request) -> Completion:
        answer = await self.engine.complete(request)
        return Completion(answer.text, answer.finish_reason, request.completion_id(self.model_id))

    async def choose(self, request: Request, choices: tuple[str, ...]) -> ChoiceLogprobs:
        answer = await self.engine.choose(request, choices)
        logprobs = tuple(value for value in answer.logprobs or () if value is not None)
        return ChoiceLogprobs(logprobs, request.choice_id(self.model_id, choices))

    def tells_apart(self, prefill: str, choices: tuple[str, ...]) -> bool:
        return self.ten_is_a_token or all(len(choice) == 1 for choice in choices)
