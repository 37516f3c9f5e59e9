"""A fake server of OpenAI's completions API in a thread of its own, which misbehaves as a test tells it to."""

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Body = dict[str, Any]
Misbehaviour = Callable[[Body, Request], Awaitable[Response | None]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def refusal(status: int, message: str, **headers: str) -> Response:
    body = {"error": {"message": message, "type": "Error", "param": None, "code": status}}
    return JSONResponse(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


async def behave(body: Body, request: Request) -> Response | None:
    """Do what a server should."""
    return None


class MisbehavingServer:
    """Answers every prompt with a text that prompt and seed decide; `misbehave` may answer in its place.

    `logprobs` are those of token ids at the first place of an answer; all other tokens are less probable.
    """

    def __init__(self, model: str, logprobs: dict[int, float], vocabulary: int, decode: Callable[[int], str]) -> None:
        self.port = free_port()
        self.cards: list[Body] = [{"id": model, "root": None, "parent": None, "max_model_len": 4096}]
        self.logprobs = logprobs
        self.vocabulary = vocabulary
        self.decode = decode
        self.knows_label_ids = True
        self.knows_token_ids = True
        self.strict = False
        self.most_logprobs = 20
        self.cached_tokens: int | None = None
        self.misbehave: Misbehaviour = behave
        self.bodies: list[Body] = []
        self.authorizations: set[str] = set()
        self.in_flight = self.most_in_flight = 0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def generations(self) -> list[Body]:
        """What was asked for, but for log probabilities."""
        return [body for body in self.bodies if "logprobs" not in body]

    def start(self) -> "MisbehavingServer":
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/completions", self._completions, methods=["POST"]),
            Route("/v1/load_lora_adapter", self._load, methods=["POST"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), host="127.0.0.1", port=self.port, log_level="critical", lifespan="off", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def die(self) -> None:
        """Be gone, with everything that was being answered."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = self._server.force_exit = True
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._server = None

    async def _models(self, request: Request) -> Response:
        self.authorizations.add(request.headers.get("authorization", ""))
        return await self.misbehave({}, request) or JSONResponse({"object": "list", "data": self.cards})

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        refused = await self.misbehave(body, request)
        if refused is None:
            base = self.cards[0]["id"]
            self.cards.append({"id": body["lora_name"], "root": body["lora_path"], "parent": base})
        return refused or Response("Success")

    async def _completions(self, request: Request) -> Response:
        body: Body = await request.json()
        self.bodies.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.misbehave(body, request) or self._answer(body)
        finally:
            self.in_flight -= 1

    def _answer(self, body: Body) -> Response:
        if body["model"] not in {card["id"] for card in self.cards}:
            return refusal(404, f"The model `{body['model']}` does not exist.")
        unknown = set(body) - {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs"}
        unknown -= {"presence_penalty", "frequency_penalty"}
        if self.strict and unknown:
            return refusal(400, f"unknown parameters {sorted(unknown)}")
        if body.get("logprobs", 0) > self.most_logprobs:
            return refusal(400, f"logprobs must be at most {self.most_logprobs}")
        drawn = hashlib.sha256(repr((body["prompt"], body.get("seed"))).encode()).hexdigest()[:8]
        asked = body.get("logprobs") is not None
        choice = {
            "index": 0,
            "text": f"Answer {drawn}.",
            "finish_reason": "stop",
            "logprobs": {"top_logprobs": [self._top(body)]} if asked else None,
        }
        usage: Body = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 3}
        if self.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        return JSONResponse({"model": body["model"], "choices": [choice], "usage": usage})

    def _top(self, body: Body) -> dict[str, float]:
        values = {token: self.logprobs.get(token, -12.0 - token / 1000) for token in range(self.vocabulary)}
        ordered = sorted(values, key=lambda token: -values[token])
        chosen = ordered[: max(1, body["logprobs"])]
        if self.knows_label_ids and body.get("logprob_token_ids"):
            chosen = [ordered[0], *body["logprob_token_ids"]]
        by_id = self.knows_token_ids and body.get("return_tokens_as_token_ids")
        return {f"token_id:{token}" if by_id else self.decode(token): values[token] for token in chosen}


async def hang(body: Body, request: Request) -> Response | None:
    """Answer nothing for a long time."""
    await asyncio.sleep(3600)
    return None
