"""One server that speaks OpenAI's API: a request to it, what becomes of the request, and how much it is asked at once.

What a server cannot answer now is an UnansweredError, what is wrong with one request a RowError, what is wrong with
the set-up a ServersError. It knows neither prompts nor other servers. The API key stays in here: whatever a server
says is quoted without it.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, TypeVar, cast

import aiohttp
import msgspec
from pydantic import BaseModel, Field, ValidationError

from cai_dagster.calls.requests import RefusedRequestError
from cai_dagster.models.chat_format import ContextTooLongError
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.text import printable
from resources.engines.http.labels import LabelQuery
from resources.engines.http.models import ModelCard, ServersError

CONNECT_SECONDS = 10.0
LIST_SECONDS = 30.0  # GET /models needs no model to run
_REASON_CHARACTERS = 500
_NEUTRAL = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
_NEUTRAL_EXTENSIONS = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
_TOO_LONG = re.compile(r"context.?(length|size|window)|maximum (model|input) length|max_model_len", re.IGNORECASE)

Body = Mapping[str, Any]
Answered = TypeVar("Answered", bound=BaseModel)


class ServerFault(StrEnum):
    """Why a request was not answered."""

    limited = "limited"
    failed = "failed"
    slow = "slow"
    gone = "gone"


class UnansweredError(Exception):
    """A server did not answer this time; `rest` is how many seconds it asks to be left alone."""

    def __init__(self, fault: ServerFault, reason: str, rest: float = 0.0) -> None:
        super().__init__(reason)
        self.fault = fault
        self.rest = rest


class _StatusError(Exception):
    """A server answered with an error's status."""

    def __init__(self, status: int, retry_after: str | None, content: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.retry_after = retry_after
        self.content = content


class _Logprobs(BaseModel):
    top_logprobs: list[dict[str, float | None] | None] | None = None


class _Choice(BaseModel):
    text: str
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _PromptTokens(BaseModel):
    cached_tokens: int | None = None


class _TokenCounts(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptTokens | None = None


class ServerCompletion(BaseModel):
    """What a server answered, as far as it matters here."""

    model: str = ""
    choices: list[_Choice] = Field(min_length=1)
    usage: _TokenCounts

    @property
    def text(self) -> str:
        """The words."""
        return self.choices[0].text

    @property
    def finish_reason(self) -> str:
        """Why they end."""
        return str(self.choices[0].finish_reason)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the server had in its prefix cache, if it says so."""
        details = self.usage.prompt_tokens_details
        return (details.cached_tokens if details else None) or 0

    @property
    def top_logprobs(self) -> dict[str, float | None]:
        """Log P by token, where the first token of the answer stands."""
        logprobs = self.choices[0].logprobs
        places = logprobs.top_logprobs if logprobs else None
        return (places[0] if places else None) or {}


class _ModelCards(BaseModel):
    data: list[ModelCard]


class Server:
    """One server: its connections, its name for the model, and how much it is asked at once.

    How much: one more for each round of answers, half for each round in which it was too much (AIMD).
    """

    def __init__(self, url: str, key: str, settings: LanguageModelSettings) -> None:
        self.url = url
        self._key = key
        self._key_variable = settings.api_key_variable
        self._seconds = settings.timeout_seconds
        self._session: aiohttp.ClientSession | None = None  # made in the event loop that uses it
        self._most = settings.slots
        self._limit = float(self._most)
        self._halved_at = 0.0
        self._rests_until = 0.0
        self._faults = 0
        self.in_flight = 0
        self.live = False
        self.refused = False
        self.state = "not asked yet"
        self.model = ""
        self.answers_as: str | None = None
        self.label_query: LabelQuery | None = None
        self.extensions = True

    @property
    def room(self) -> int:
        """How many more calls it may be given now."""
        usable = self.live and self._rests_until <= time.monotonic()
        return max(0, int(self._limit) - self.in_flight) if usable else 0

    @property
    def load(self) -> float:
        """Calls in flight as a share of what it takes."""
        return self.in_flight / self._limit

    @property
    def well(self) -> bool:
        """Whether it is up and answered when it was asked last."""
        return self.live and self._faults == 0

    @property
    def lost(self) -> bool:
        """Whether it is up by name only. A limit on calls is no sign of that, however often it is met."""
        return self.live and self._faults >= 3

    def answered(self) -> None:
        """It answered: it may be asked a little more."""
        self._faults = 0
        self._limit = min(self._most, self._limit + 1 / self._limit)

    def troubled(self, error: UnansweredError, sent: float) -> None:
        """It did not answer a call that was sent at `sent`: it is asked less, or not at all for a while."""
        self.state = str(error)
        self._rests_until = max(self._rests_until, time.monotonic() + error.rest)
        self._faults = {ServerFault.gone: 3, ServerFault.limited: max(1, self._faults)}.get(
            error.fault, self._faults + 1
        )
        if error.fault != ServerFault.gone and sent >= self._halved_at:  # once for the calls that were out together
            self._halved_at = time.monotonic()
            self._limit = max(1.0, self._limit / 2)

    async def complete(self, body: Body) -> ServerCompletion:
        """POST /completions; what the body does not name is neutral, whatever the server's defaults are.

        Raises UnansweredError, RowError and ServersError.
        """
        extensions = _NEUTRAL_EXTENSIONS if self.extensions else {}
        whole = {"model": self.model, **_NEUTRAL, **extensions, **body}
        completion = self._read(ServerCompletion, await self._ask("POST", "/completions", whole))
        if completion.finish_reason in {"None", "abort", "error"}:
            raise UnansweredError(ServerFault.failed, f"it broke off (finish_reason {completion.finish_reason})")
        if self.answers_as not in {None, completion.model}:
            raise UnansweredError(ServerFault.gone, f"{completion.model!r} answered in place of {self.answers_as!r}")
        return completion

    async def models(self) -> list[ModelCard]:
        """GET /models. Raises UnansweredError and ServersError."""
        seconds = min(self._seconds, LIST_SECONDS)
        return self._read(_ModelCards, await self._ask("GET", "/models", None, seconds)).data

    async def load_adapter(self, name: str, folder: str) -> None:
        """Have it load a LoRA adapter.

        Raises ServersError or RowError where it does not, UnansweredError.
        """
        body = {"lora_name": name, "lora_path": folder}
        await self._ask("POST", "/load_lora_adapter", body)

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, method: str, path: str, body: Body | None, seconds: float | None = None) -> bytes:
        """One request; every failure as an error of ours."""
        seconds = seconds or self._seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._send(method, path, body)
        except _StatusError as error:
            failure = self._failure_of_status(error)
        except aiohttp.ConnectionTimeoutError as error:
            failure = UnansweredError(ServerFault.gone, f"no connection ({self._quote(str(error))})")
        except TimeoutError:
            failure = UnansweredError(ServerFault.slow, f"no answer within {seconds:g} s (timeout_seconds)")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = self._quote(str(error) or type(error).__name__)
            failure = UnansweredError(ServerFault.gone, f"no connection ({reason})")
        raise failure  # outside the handlers: an error is shown with the one it is chained to, the key in it as well

    async def _send(self, method: str, path: str, body: Body | None) -> bytes:
        if self._session is None:
            self._session = self._opened()
        content = None if body is None else msgspec.json.encode(body)
        async with self._session.request(method, f"{self.url.rstrip('/')}{path}", data=content) as response:
            said = await response.read()
            if response.status >= 400:
                raise _StatusError(response.status, response.headers.get("Retry-After"), said)
            return said

    def _opened(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key or 'none'}"}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(self._seconds, CONNECT_SECONDS)),
            headers=headers,
            trust_env=True,  # proxies, as every other client takes them
        )

    def _read(self, model: type[Answered], content: bytes) -> Answered:
        try:
            said = json.loads(content)  # of Python: it takes every text that a server may send
        except ValueError:
            raise UnansweredError(ServerFault.failed, "its answer is not one of OpenAI's API (no JSON)") from None
        try:
            return model.model_validate(said)
        except ValidationError as error:
            fields = ", ".join(sorted({".".join(str(part) for part in problem["loc"]) for problem in error.errors()}))
        raise UnansweredError(ServerFault.failed, f"its answer is not one of OpenAI's API ({fields or 'no object'})")

    def _failure_of_status(self, error: _StatusError) -> Exception:
        status, said = error.status, self._quote(_message_of(_body_of(error.content)))
        if status in {408, 425, 429} or status >= 500:
            rest = retry_after_seconds(error.retry_after)
            return UnansweredError(
                ServerFault.limited if status == 429 else ServerFault.failed, f"HTTP {status}: {said}", rest
            )
        if status in {401, 403}:
            state = "is not accepted" if self._key else "is not set"
            return ServersError(
                f"HTTP {status}: {said}. The API key belongs into the environment variable "
                f"{self._key_variable}, which {state}."
            )
        if status in {404, 405}:
            return ServersError(
                f"HTTP {status}: {said}. Is it the base URL of a server that speaks OpenAI's API "
                "(it usually ends in /v1), and does it still serve the model?"
            )
        kind = ContextTooLongError if _TOO_LONG.search(said) else RefusedRequestError
        return kind(f"HTTP {status}: {said}")

    def _quote(self, text: str) -> str:
        """What came from outside, fit to be shown: without the key, printable, and short."""
        return printable(text.replace(self._key, "[API key]") if self._key else text, _REASON_CHARACTERS)


def retry_after_seconds(header: str | None) -> float:
    """Seconds from a Retry-After header, which holds seconds or a date; 0 where there is none or nonsense in it."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return 0.0
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _body_of(content: bytes) -> object:
    """An error's body: what its JSON says, or the text as it is."""
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")


def _message_of(body: object) -> str:
    """What a server says about an error: the field for it in OpenAI's and FastAPI's form, or the whole text."""
    if isinstance(body, str):
        return body or "no message"
    if not isinstance(body, dict):
        return "no message"
    fields = cast("dict[str, Any]", body)
    said = fields.get("message") or fields.get("error") or fields.get("detail")
    if isinstance(said, dict):
        return _message_of(cast("object", said))
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False) if said else "no message"
