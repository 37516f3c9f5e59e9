"""vLLM on this machine as an `Engine`: dialogues become token ids here, vLLM runs in this process or in its own.

It knows nothing of Dagster or the ledger.
"""

from collections.abc import Callable, Sequence

from cai_dagster.calls.requests import Answer, Request
from cai_dagster.models.chat_format import ChatFormat, fitting
from cai_dagster.models.settings import EngineKind, LanguageModelSettings
from cai_dagster.models.weights import Weights
from resources.engines.protocol import Log
from resources.engines.vllm.calls import TokenCall, Vllm

StartVllm = Callable[[Weights, LanguageModelSettings, Log, Sequence[int]], Vllm]


def start_vllm(weights: Weights, settings: LanguageModelSettings, log: Log, locks: Sequence[int]) -> Vllm:
    """VLLM in the process that the settings say."""
    if settings.runs_in == EngineKind.own_process:
        from resources.engines.vllm.own_process import OwnProcess

        return OwnProcess(weights, settings, log, locks)
    from resources.engines.vllm.in_process import InProcess

    return InProcess(weights, settings, log)


class VllmEngine:
    """One model, loaded. Close it to give its memory back.

    `log` is told of the phases of the start: weights, cache, captured graphs. `locks` are open files that hold the
    accelerator's locks; they stay held while vLLM holds memory, whatever becomes of this process.
    """

    def __init__(
        self,
        weights: Weights,
        settings: LanguageModelSettings,
        log: Log = lambda _: None,
        locks: Sequence[int] = (),
        start: StartVllm = start_vllm,
    ) -> None:
        self._format = ChatFormat(weights.folder, settings.chat_options)
        self._max_model_len = settings.max_model_len
        self._sends_seeds = settings.sends_seeds
        self._vllm = start(weights, settings, log, locks)

    @property
    def has_failed(self) -> bool:
        """Whether vLLM has stopped: another engine has to be started."""
        return self._vllm.has_failed

    async def complete(self, request: Request) -> Answer:
        """Generate. Raises ContextTooLongError when prompt and max_tokens do not fit the context."""
        sampling = request.sampling
        token_ids = self._format.prompt_ids(request.messages, request.prefill)
        fitting(token_ids, sampling.max_tokens, self._max_model_len)
        call = TokenCall(
            token_ids,
            sampling.max_tokens,
            sampling.temperature,
            sampling.top_p,
            request.seed if self._sends_seeds else None,
            tuple(self._format.stop_strings),
            self._format.keeps_special_tokens,
        )
        said = await self._vllm.ask(call)
        text = self._format.answer(said.text)
        return Answer(
            text, said.finish_reason, len(token_ids), said.completion_tokens, 0.0, cached_tokens=said.cached_tokens
        )

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:
        """Log probabilities of the choices' tokens after the prefill; None for one the engine did not return."""
        token_ids, labels = self._format.choice_ids(request.messages, request.prefill, choices)
        fitting(token_ids, 1, self._max_model_len)
        said = await self._vllm.ask(TokenCall(token_ids, labels=tuple(labels)))
        return Answer(
            said.text, said.finish_reason, len(token_ids), 1, 0.0, said.logprobs, cached_tokens=said.cached_tokens
        )

    def close(self) -> None:
        """Stop the engine and give its memory back."""
        self._vllm.close()
