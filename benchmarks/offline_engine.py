"""The offline model's engine, as the benchmarks of inference use it: a few slots, short answers."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from cai_dagster.home import Home
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights, locate_weights
from cai_dagster.settings import active_settings
from resources.engines.vllm.calls import TokenAnswer, TokenCall
from resources.engines.vllm.in_process import InProcess
from resources.engines.vllm.own_process import OwnProcess


@contextlib.contextmanager
def recording(
    vllm: type[InProcess] | type[OwnProcess],
    recorded: list[tuple[TokenCall, int]],
    made: Callable[[TokenCall], TokenCall] = lambda call: call,
) -> Generator[None]:
    """Note each call that reaches vLLM, and the tokens of its answer; `made` makes what is asked in its place."""
    ask: Any = vllm.ask

    async def noted(self: Any, call: TokenCall) -> TokenAnswer:
        answer = await ask(self, made(call))
        recorded.append((call, answer.completion_tokens))
        return answer

    vllm.ask = noted
    try:
        yield
    finally:
        vllm.ask = ask


def offline_weights() -> Weights:
    """The prepared offline model of this home."""
    return locate_weights("offline", "", Home.from_environment())


def engine_settings(slots: int, **changes: Any) -> LanguageModelSettings:
    """The policy's settings with so many sequences at once."""
    return active_settings().policy.model_copy(update={"calls_in_flight": slots, **changes})
