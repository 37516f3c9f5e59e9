"""Servers that speak OpenAI's API, such as `vllm serve`, as an `Engine`: the same requests and answers as in process.

Dialogues are turned into token ids here, so the text of a message is text there too. Everything about connections
runs in one thread with an event loop of its own, for the engine outlives the event loops of the stages. It knows
nothing of Dagster or the ledger.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from cai_dagster.calls.requests import Answer, Request
from cai_dagster.judging.questions import LABELS, PREFILL
from cai_dagster.models.chat_format import ChatFormat, ChatFormatError, fitting
from cai_dagster.models.messages import Message
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.models.weights import Weights
from resources.engines.http.labels import TokenNames
from resources.engines.http.models import ExpectedModel, ServersError
from resources.engines.http.pool import Probe, ServerPool
from resources.engines.http.server import Body, Server

_PROBE = (Message("user", "Which of the two is larger: (A) a cat or (B) a house? Answer with one letter."),)

T = TypeVar("T")


class HttpEngine:
    """One model on one or more servers. Close it to close its connections.

    Raises ServersError when a server serves another model, or no server answers for `patience_seconds`.
    """

    def __init__(self, weights: Weights, settings: LanguageModelSettings, log: Callable[[str], None]) -> None:
        self._format = ChatFormat(weights.folder, settings.chat_options)
        self._max_model_len = settings.max_model_len
        self._sends_seeds = settings.sends_seeds
        self._names = TokenNames(self._format.tokenizer)
        key = _api_key(settings.api_key_variable)
        servers = [Server(url, key, settings) for url in _base_urls(settings)]
        self._pool = ServerPool(servers, ExpectedModel(weights, settings), self._probe(), log)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._pool.open(), self._loop).result()
        except BaseException:
            self.close()
            raise

    async def complete(self, request: Request) -> Answer:
        """Generate. Raises RowError for what is wrong with this request, ServersError when no server answers."""
        sampling = request.sampling
        token_ids = self._format.prompt_ids(request.messages, request.prefill)
        fitting(token_ids, sampling.max_tokens, self._max_model_len)
        body: dict[str, Any] = {
            "prompt": token_ids,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        if request.seed is not None and self._sends_seeds:
            body["seed"] = request.seed
        if self._format.keeps_special_tokens:
            body["skip_special_tokens"] = False
        if self._format.stop_strings:
            body["stop"] = self._format.stop_strings
        server, completion = await self._in_its_loop(self._pool.ask(lambda _: body))
        tokens = completion.usage.completion_tokens
        if completion.finish_reason == "length" and tokens < sampling.max_tokens:
            raise ServersError(
                f"{server.url} cut a completion after {tokens} tokens where {sampling.max_tokens} were asked for: it "
                "has a limit of its own. Start vLLM with `--generation-config vllm`."
            )
        text, cached = self._format.answer(completion.text), completion.cached_tokens
        return Answer(text, completion.finish_reason, len(token_ids), tokens, 0.0, cached_tokens=cached)

    async def choose(self, request: Request, choices: tuple[str, ...]) -> Answer:
        """Log probabilities of the choices' tokens after the prefill; None for one the server did not return."""
        token_ids, labels = self._format.choice_ids(request.messages, request.prefill, choices)
        fitting(token_ids, 1, self._max_model_len)

        def body(server: Server) -> Body:
            asked = server.label_query.fields(labels) if server.label_query else {}
            return {"prompt": token_ids, "temperature": 0.0, "max_tokens": 1, **asked}

        _, completion = await self._in_its_loop(self._pool.ask(body))
        returned = completion.top_logprobs
        logprobs = tuple(self._names.read(returned, label) for label in labels)
        said, cached = completion.text, completion.cached_tokens
        return Answer(said, completion.finish_reason, len(token_ids), 1, 0.0, logprobs, cached_tokens=cached)

    @property
    def has_failed(self) -> bool:
        """Never: servers come back."""
        return False

    def close(self) -> None:
        """Close the connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _in_its_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _end(self) -> None:
        unfinished = asyncio.all_tasks() - {asyncio.current_task()}
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        await self._pool.close()

    def _probe(self) -> Probe:
        try:
            token_ids, labels = self._format.choice_ids(_PROBE, PREFILL, LABELS)
        except ChatFormatError:  # such a model cannot judge, but it can write
            token_ids = self._format.prompt_ids(_PROBE, PREFILL)
            labels = sorted(set(token_ids))[:2]
        return Probe(token_ids, labels, self._names)


def _base_urls(settings: LanguageModelSettings) -> list[str]:
    if not settings.base_urls:
        raise ServersError('engine = "http" needs base_urls, such as ["http://gpu-1:8000/v1"].')
    for url in settings.base_urls:
        if not url.startswith(("http://", "https://")):
            raise ServersError(f"base_urls: {url!r} begins with neither http:// nor https://")
    return list(dict.fromkeys(settings.base_urls))


def _api_key(variable: str) -> str:
    """The API key; empty where there is none."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ServersError(f"the API key in {variable} has characters that no HTTP header can carry.")
    return key
