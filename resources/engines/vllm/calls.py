"""A call as vLLM is given it and an answer as it comes back: what both ways of running vLLM have in common.

Both are plain values that msgspec carries from one process to another. Importing this imports no vllm.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams


@dataclass(frozen=True, slots=True)
class TokenCall:
    """A prompt in token ids, and how the answer is drawn.

    With `labels` nothing is drawn: the log probabilities of these tokens are asked for. `ignore_eos` draws `max_tokens`
    tokens whatever they are (benchmarks).
    """

    token_ids: list[int]
    max_tokens: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    keeps_special_tokens: bool = False
    labels: tuple[int, ...] = ()
    ignore_eos: bool = False

    def sampling_params(self) -> "SamplingParams":
        """The same as vLLM writes it; the whole answer comes at once."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if self.labels:
            labels: Any = list(self.labels)
            kind = RequestOutputKind.FINAL_ONLY
            return SamplingParams(temperature=0, max_tokens=1, logprob_token_ids=labels, output_kind=kind)
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=self.seed,
            stop=list(self.stop),
            skip_special_tokens=not self.keeps_special_tokens,
            ignore_eos=self.ignore_eos,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What vLLM said, in UTF-8 that may hold a lone surrogate.

    `cached_tokens`: of the prompt, those whose keys and values were in the prefix cache. `logprobs` are those of the
    labels; None for one that was not returned.
    """

    said: bytes
    finish_reason: str
    completion_tokens: int
    cached_tokens: int
    logprobs: tuple[float | None, ...] = ()

    @property
    def text(self) -> str:
        """What vLLM said."""
        return self.said.decode("utf-8", "surrogatepass")

    @classmethod
    def of(cls, output: "RequestOutput", call: TokenCall) -> "TokenAnswer":
        """What the call asked for, of vLLM's output."""
        said = output.outputs[0]
        returned = said.logprobs[0] if call.labels and said.logprobs else {}
        logprobs = tuple(returned[label].logprob if label in returned else None for label in call.labels)
        text, cached = said.text.encode("utf-8", "surrogatepass"), output.num_cached_tokens or 0
        return cls(text, str(said.finish_reason), len(said.token_ids), cached, logprobs)


class Vllm(Protocol):
    """A running vLLM."""

    @property
    def has_failed(self) -> bool:
        """Whether it has stopped and answers nothing any more."""
        ...

    async def ask(self, call: TokenCall) -> TokenAnswer:
        """The answer to a call. Raises VllmError when vLLM has stopped."""
        ...

    def close(self) -> None:
        """Stop it and give its memory back."""
        ...


class VllmError(RuntimeError):
    """vLLM could not be started, or has stopped; the message has vLLM's own reason."""


Outcome = tuple["asyncio.Future[TokenAnswer]", TokenAnswer | BaseException]


def resolve(loop: asyncio.AbstractEventLoop, outcomes: Sequence[Outcome]) -> None:
    """Hand answers and errors, from another thread, to those who wait for them in an event loop."""

    def settle() -> None:
        for waiting, outcome in outcomes:
            if waiting.done():
                continue
            if isinstance(outcome, BaseException):
                waiting.set_exception(outcome)
            else:
                waiting.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # its loop has ended: the stage was interrupted, and nobody waits
        loop.call_soon_threadsafe(settle)
