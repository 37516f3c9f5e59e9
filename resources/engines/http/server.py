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
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, TypeVar, cast

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI, Timeout
from pydantic import BaseModel, Field, ValidationError

from cai_dagster.calls.requests import RefusedRequestError
from cai_dagster.models.chat_format import ContextTooLongError
from cai_dagster.models.settings import LanguageModelSettings
from cai_dagster.text import printable
from resources.engines.http.labels import LabelQuery
from resources.engines.http.models import ModelCard, ServersError

CONNECT_SECONDS = 10.0
LIST_SECONDS = 30.0  # GET /models needs no model to run
CONNECTIONS_OF_A_SERVER = 1000  # the client's own limit
_REASON_CHARACTERS = 500
_NEUTRAL = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
_NEUTRAL_EXTENSIONS = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
_TOO_LONG = re.compile(r"context.?(length|size|window)|maximum (model|input) length|max_model_len", re.IGNORECASE)

Body = Mapping[str, Any]
Answered = TypeVar("Answered")


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


class _Logprobs(BaseModel):
    top_logprobs: list[dict[str, float | None] | None] | None = None


class _Choice(BaseModel):
    text: str
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _TokenCounts(BaseModel):
    prompt_tokens: int
    completion_tokens: int


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
        timeout = Timeout(self._seconds, connect=min(self._seconds, CONNECT_SECONDS))
        self._client = AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=0, timeout=timeout)
        self._most = min(settings.slots, CONNECTIONS_OF_A_SERVER)
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
        completion = await self._ask(
            ServerCompletion.model_validate, lambda: self._client.post("/completions", cast_to=object, body=whole)
        )
        if completion.finish_reason in {"None", "abort", "error"}:
            raise UnansweredError(ServerFault.failed, f"it broke off (finish_reason {completion.finish_reason})")
        if self.answers_as not in {None, completion.model}:
            raise UnansweredError(ServerFault.gone, f"{completion.model!r} answered in place of {self.answers_as!r}")
        return completion

    async def models(self) -> list[ModelCard]:
        """GET /models. Raises UnansweredError and ServersError."""
        seconds = min(self._seconds, LIST_SECONDS)
        listed = await self._ask(
            _ModelCards.model_validate, lambda: self._client.get("/models", cast_to=object), seconds
        )
        return listed.data

    async def load_adapter(self, name: str, folder: str) -> None:
        """Have it load a LoRA adapter.

        Raises ServersError or RowError where it does not, UnansweredError.
        """
        body = {"lora_name": name, "lora_path": folder}
        await self._ask(str, lambda: self._client.post("/load_lora_adapter", cast_to=str, body=body))

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def _ask(
        self, read: Callable[[Any], Answered], send: Callable[[], Awaitable[Any]], seconds: float | None = None
    ) -> Answered:
        """One request; every failure as an error of ours."""
        seconds = seconds or self._seconds
        try:
            async with asyncio.timeout(seconds):
                return read(await send())
        except APIStatusError as error:
            failure = self._failure_of_status(error)
        except (TimeoutError, APIConnectionError) as error:
            failure = self._failure_of_connection(error, seconds)
        except ValidationError as error:
            fields = ", ".join(sorted({".".join(str(part) for part in problem["loc"]) for problem in error.errors()}))
            failure = UnansweredError(
                ServerFault.failed, f"its answer is not one of OpenAI's API ({fields or 'no object'})"
            )
        except (APIError, ValueError):
            failure = UnansweredError(ServerFault.failed, "its answer is not one of OpenAI's API (no JSON)")
        raise failure  # outside the handlers: an error is shown with the one it is chained to, the key in it as well

    def _failure_of_connection(self, error: BaseException, seconds: float) -> UnansweredError:
        cause = error.__cause__
        connected = type(cause).__name__ != "ConnectTimeout"  # of httpx or httpx2, by the version of the client
        if connected and isinstance(error, (TimeoutError, APITimeoutError)):
            return UnansweredError(ServerFault.slow, f"no answer within {seconds:g} s (timeout_seconds)")
        return UnansweredError(ServerFault.gone, f"no connection ({self._quote(str(cause) or type(cause).__name__)})")

    def _failure_of_status(self, error: APIStatusError) -> Exception:
        status, said = error.status_code, self._quote(_message_of(error.body))
        if status in {408, 425, 429} or status >= 500:
            rest = retry_after_seconds(error.response.headers.get("retry-after"))
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
