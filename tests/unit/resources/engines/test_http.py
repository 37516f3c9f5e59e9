"""The HTTP engine against servers that misbehave: what is asked again, what is one row's failure, what is refused."""

import asyncio
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from cai_dagster.calls.ledger import Ledger
from cai_dagster.calls.ledgered_model import LedgeredModel
from cai_dagster.calls.requests import (
    Answer,
    LanguageModel,
    MissingLabelError,
    RefusedRequestError,
    Request,
    Sampling,
    Slot,
)
from cai_dagster.calls.row_stream import Row, run_rows
from cai_dagster.home import Home
from cai_dagster.judging.questions import LABELS, PREFILL
from cai_dagster.lake.staging import StagedRows
from cai_dagster.models.chat_format import ChatFormat, ContextTooLongError
from cai_dagster.models.messages import Message
from cai_dagster.models.settings import EngineKind, LanguageModelSettings
from cai_dagster.models.weights import Weights, locate_weights, weights_of
from cai_dagster.settings import active_settings
from resources.engines.http import pool as http_pool
from resources.engines.http.engine import HttpEngine
from resources.engines.http.models import ServersError
from resources.engines.http.server import retry_after_seconds
from tests.misbehaving_server import MisbehavingServer, hang, refusal
from tests.tiny_models import write_tiny_model

T = TypeVar("T")
STAGE = "initial_responses"
KEY = "sk-do-not-show-1234567890"
Serve = Callable[..., MisbehavingServer]
Connect = Callable[..., HttpEngine]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_pool, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(http_pool, "LONGEST_PAUSE_SECONDS", 0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def weights(folder: Path, home: Home) -> Weights:
    return weights_of("tiny", folder, home)


@pytest.fixture
def serve(folder: Path) -> Iterator[Serve]:
    """Start servers that serve the tiny model under its name; A is likelier than B."""
    servers: list[MisbehavingServer] = []
    tokenizer: Any = ChatFormat(folder).tokenizer
    a, b = tokenizer.convert_tokens_to_ids(["A", "B"])

    def start(model: str = "tiny", logprobs: tuple[float, float] = (-0.2, -1.9), **fields: Any) -> MisbehavingServer:
        server = MisbehavingServer(
            model, dict(zip((a, b), logprobs, strict=True)), len(tokenizer), lambda token: tokenizer.decode([token])
        )
        for name, value in fields.items():
            setattr(server, name, value)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.die()


@pytest.fixture
def said() -> list[str]:
    """What the engine logged."""
    return []


@pytest.fixture
def connect(weights: Weights, said: list[str]) -> Iterator[Connect]:
    """An engine for servers, with short patience."""
    engines: list[HttpEngine] = []

    def start(*servers: MisbehavingServer, weights: Weights = weights, **changes: Any) -> HttpEngine:
        engine = HttpEngine(weights, settings_for(*servers, **changes), said.append)
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


def settings_for(*servers: MisbehavingServer, **changes: Any) -> LanguageModelSettings:
    values = {
        "engine": EngineKind.http,
        "base_urls": [server.url for server in servers],
        "max_model_len": 512,
        "calls_in_flight": 16,
        "timeout_seconds": 5.0,
        "patience_seconds": 5.0,
    }
    return active_settings().policy.model_copy(update={**values, **changes})


def asked(text: str = "Hello?", number: int = 0, max_tokens: int = 16) -> Request:
    return Request((Message("user", text),), Slot(STAGE, f"p{number}"), Sampling(max_tokens=max_tokens))


JUDGE = Request((Message("user", "Which is better, (A) or (B)?"),), Slot("judgements", "p"), prefill=PREFILL)


def together(calls: Callable[[], list[Coroutine[Any, Any, T]]]) -> list[T]:
    async def run() -> list[T]:
        return await asyncio.gather(*calls())

    return asyncio.run(run())


def ask(engine: HttpEngine, request: Request) -> Answer:
    return together(lambda: [engine.complete(request)])[0]


def judge(engine: HttpEngine) -> Answer:
    return together(lambda: [engine.choose(JUDGE, LABELS)])[0]


def the_first(times: int, response: Callable[[], Response]) -> Callable[[Any, HttpRequest], Any]:
    """Misbehave in the first so many generations, then behave."""
    left = times

    async def misbehave(body: dict[str, Any], request: HttpRequest) -> Response | None:
        nonlocal left
        if not body or "logprobs" in body or left == 0:
            return None
        left -= 1
        return response()

    return misbehave


def test_an_engine_that_is_closed_answers_nothing_and_leaves_no_thread(serve: Serve, weights: Weights) -> None:
    server = serve()
    engine = HttpEngine(weights, settings_for(server), print)
    server.misbehave = hang

    async def close_in_the_middle() -> None:
        call = asyncio.create_task(engine.complete(asked()))
        await asyncio.sleep(0.1)
        engine.close()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(close_in_the_middle())
    assert not any(thread.name == "http" for thread in threading.enumerate())


def test_a_request_carries_what_the_engine_in_process_is_given(
    serve: Serve, connect: Connect, weights: Weights
) -> None:
    server = serve()
    request = asked("stop <|im_end|> here", max_tokens=7)
    answer = ask(connect(server), request)
    (body,) = server.generations
    assert body["prompt"] == ChatFormat(weights.folder).prompt_ids(request.messages)
    assert (body["seed"], body["temperature"], body["top_p"], body["max_tokens"]) == (request.seed, 1.0, 1.0, 7)
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (0, 0.0, 1.0)
    assert (answer.prompt_tokens, answer.completion_tokens) == (len(body["prompt"]), 3)
    assert (answer.text[:6], answer.finish_reason, answer.logprobs) == ("Answer", "stop", None)


def test_a_greedy_request_carries_no_seed(serve: Serve, connect: Connect) -> None:
    server = serve()
    ask(connect(server), Request((Message("user", "Hi"),), Slot(STAGE, "p"), Sampling(temperature=0, max_tokens=4)))
    assert "seed" not in server.generations[0]


@pytest.mark.parametrize(
    "abilities",
    [
        {},
        {"knows_label_ids": False},
        {"knows_label_ids": False, "knows_token_ids": False},
        {"knows_label_ids": False, "knows_token_ids": False, "strict": True},
        {"knows_label_ids": False, "knows_token_ids": False, "strict": True, "most_logprobs": 5},
        {"knows_label_ids": False, "most_logprobs": 3},
    ],
)
def test_label_logprobs_are_those_of_the_server_however_it_can_be_asked(
    serve: Serve, connect: Connect, abilities: dict[str, Any]
) -> None:
    assert judge(connect(serve(**abilities))).logprobs == (-0.2, -1.9)


@pytest.mark.parametrize("knows_token_ids", [True, False])
def test_a_label_outside_the_top_of_a_server_that_returns_no_other_is_missing(
    serve: Serve, connect: Connect, home: Home, knows_token_ids: bool
) -> None:
    server = serve(logprobs=(-0.2, -14.0), knows_label_ids=False, knows_token_ids=knows_token_ids)
    engine = connect(server)
    assert judge(engine).logprobs == (-0.2, None)
    model = LedgeredModel("m", lambda: engine, Ledger(home.ledger))
    with pytest.raises(MissingLabelError, match="missing_label"):
        together(lambda: [model.choose(JUDGE, LABELS)])


def test_a_label_far_outside_the_top_is_returned_by_a_server_that_is_asked_for_it(
    serve: Serve, connect: Connect
) -> None:
    assert judge(connect(serve(logprobs=(-0.2, -14.0)))).logprobs == (-0.2, -14.0)


def test_a_server_that_is_asked_too_often_is_left_alone_as_long_as_it_says(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server)
    times: list[float] = []

    async def note(body: dict[str, Any], request: HttpRequest) -> Response | None:
        times.append(time.monotonic())
        return refusal(429, "slow down", retry_after="1") if len(times) == 1 else None

    server.misbehave = note
    assert ask(engine, asked()).text
    assert len(times) == 2
    assert times[1] - times[0] >= 1


def test_retry_after_is_seconds_or_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=60)
    assert retry_after_seconds("2.5") == 2.5
    assert 50 < retry_after_seconds(format_datetime(later, usegmt=True)) <= 60
    for nothing in (None, "", "soon", "-3", "inf", "nan", format_datetime(later - timedelta(days=1), usegmt=True)):
        assert retry_after_seconds(nothing) == 0


@pytest.mark.parametrize(
    "response",
    [
        lambda: refusal(500, "oops"),
        lambda: refusal(503, "loading"),
        lambda: PlainTextResponse("<html>bad gateway</html>", 502),
        lambda: PlainTextResponse("not json at all"),
        lambda: JSONResponse({"choices": []}),
        lambda: JSONResponse(
            {
                "model": "tiny",
                "choices": [{"text": "half a", "finish_reason": "abort"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1},
            }
        ),
    ],
)
def test_a_burst_of_failures_costs_no_row(serve: Serve, connect: Connect, response: Callable[[], Response]) -> None:
    server = serve()
    engine = connect(server)
    server.misbehave = the_first(20, response)
    answers = together(lambda: [engine.complete(asked(number=number)) for number in range(30)])
    assert len({answer.text for answer in answers}) == 30


def test_a_call_that_hangs_is_asked_again(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server, timeout_seconds=2.0, patience_seconds=60.0)
    hung = 0

    async def hang_twice(body: dict[str, Any], request: HttpRequest) -> Response | None:
        nonlocal hung
        if body and "logprobs" not in body and hung < 2:
            hung += 1
            return await hang(body, request)
        return None

    server.misbehave = hang_twice
    assert len(together(lambda: [engine.complete(asked(number=number)) for number in range(8)])) == 8
    assert hung == 2


def test_as_many_calls_are_out_as_the_server_takes(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server, calls_in_flight=64, patience_seconds=30.0)
    refused = 0

    async def take_eight(body: dict[str, Any], request: HttpRequest) -> Response | None:
        nonlocal refused
        if server.in_flight > 8:
            refused += 1
            return refusal(429, "too many")
        await asyncio.sleep(0.01)
        return None

    server.misbehave = take_eight
    together(lambda: [engine.complete(asked(number=number)) for number in range(200)])
    refused_at_first, refused = refused, 0
    server.most_in_flight = 0
    together(lambda: [engine.complete(asked(number=number)) for number in range(200, 400)])
    assert server.most_in_flight <= 12
    assert refused < 50
    assert refused_at_first > 0


def test_calls_are_spread_over_the_servers(serve: Serve, connect: Connect) -> None:
    servers = [serve() for _ in range(3)]
    engine = connect(*servers)

    async def take_a_while(body: dict[str, Any], request: HttpRequest) -> Response | None:
        await asyncio.sleep(0.02)
        return None

    for server in servers:
        server.misbehave = take_a_while
    together(lambda: [engine.complete(asked(number=number)) for number in range(60)])
    assert all(len(server.generations) >= 10 for server in servers)
    assert sum(len(server.generations) for server in servers) == 60


def test_a_server_that_dies_is_replaced_by_the_others_and_taken_back(
    serve: Serve, connect: Connect, said: list[str]
) -> None:
    first, second = serve(), serve()
    engine = connect(first, second)
    first.die()
    answers = together(lambda: [engine.complete(asked(number=number)) for number in range(20)])
    assert len(answers) == 20
    assert any(f"{first.url} does not answer" in line for line in said)
    first.start()
    wait_for(lambda: any(f"{first.url} answers again" in line for line in said))
    before = len(first.generations)
    together(lambda: [engine.complete(asked(number=number)) for number in range(20)])
    assert len(first.generations) > before


def test_a_server_that_was_not_up_yet_is_waited_for(serve: Serve, connect: Connect, said: list[str]) -> None:
    late = serve()
    late.die()
    engine_and_server = [serve(), late]
    engine = connect(*engine_and_server)
    assert ask(engine, asked()).text
    late.start()
    wait_for(lambda: any(f"{late.url} answers again" in line for line in said))


def test_a_server_that_comes_back_with_another_model_is_not_used(
    serve: Serve, connect: Connect, said: list[str]
) -> None:
    first, second = serve(), serve()
    engine = connect(first, second)
    first.die()
    together(lambda: [engine.complete(asked(number=number)) for number in range(10)])
    first.cards[0]["id"] = "another"
    before = len(first.generations)
    first.start()
    wait_for(lambda: any("back but not used" in line and "'another'" in line for line in said))
    together(lambda: [engine.complete(asked(number=number)) for number in range(10)])
    assert len(first.generations) == before
    second.cards[0]["id"] = "another"
    second.misbehave = the_first(100, lambda: refusal(500, "restarting"))
    with pytest.raises(ServersError, match="no server is left that serves tiny"):
        ask(engine, asked())


def test_when_no_server_answers_any_more_the_stage_fails_and_says_what_to_do(serve: Serve, connect: Connect) -> None:
    first, second = serve(), serve()
    engine = connect(first, second, patience_seconds=0.4)
    first.die()
    second.die()
    with pytest.raises(ServersError, match="no server has answered") as caught:
        together(lambda: [engine.complete(asked(number=number)) for number in range(40)])
    for words in (first.url, second.url, "vllm serve", "--served-model-name tiny", "in the ledger", "patience_seconds"):
        assert words in str(caught.value)
    first.start()
    assert ask(engine, asked()).text  # the next stage finds it


def test_an_engine_whose_servers_never_answer_fails_to_start(serve: Serve, connect: Connect) -> None:
    server = serve()
    server.die()
    with pytest.raises(ServersError, match="no server has answered"):
        connect(server, patience_seconds=0.3)


def test_a_server_that_only_ever_says_too_many_ends_the_stage(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server, patience_seconds=0.4)
    server.misbehave = the_first(-1, lambda: refusal(429, "quota exhausted"))
    with pytest.raises(ServersError, match="quota exhausted"):
        together(lambda: [engine.complete(asked(number=number)) for number in range(4)])


def at_length(engine: HttpEngine, request: Request, response: Callable[[], Response]) -> Callable[..., Any]:
    """Answer prompts that are as long as this one in another way."""
    length = len(engine._format.prompt_ids(request.messages))

    async def misbehave(body: dict[str, Any], request: HttpRequest) -> Response | None:
        return response() if body and len(body["prompt"]) == length else None

    return misbehave


async def outcome(engine: HttpEngine, request: Request) -> str:
    try:
        return (await engine.complete(request)).text
    except (RefusedRequestError, ContextTooLongError) as error:
        return str(error)


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "this prompt is \x1b[31mnot liked", "refused_request: HTTP 400: this prompt is \\x1b[31mnot liked"),
        (422, "no", "refused_request: HTTP 422: no"),
        (400, "This model's maximum context length is 9 tokens.", "context_too_long: HTTP 400: This model's maximum"),
    ],
)
def test_a_refused_row_is_its_own_failure(serve: Serve, connect: Connect, status: int, message: str, code: str) -> None:
    server = serve()
    engine = connect(server)
    bad = asked("a prompt of another length than all the others")
    server.misbehave = at_length(engine, bad, lambda: refusal(status, message))
    outcomes = together(lambda: [outcome(engine, request) for request in (asked(), bad, asked(number=2))])
    assert outcomes[1].startswith(code)
    assert all(text.startswith("Answer") for text in (outcomes[0], outcomes[2]))


def test_a_row_that_the_server_always_fails_at_is_given_up_and_the_others_go_on(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server, patience_seconds=0.3)
    bad = asked("a prompt of another length than all the others")
    server.misbehave = at_length(engine, bad, lambda: refusal(500, "CUDA says no"))
    (reason,) = together(lambda: [outcome(engine, bad)])
    assert reason.startswith("refused_request: HTTP 500: CUDA says no")
    assert ask(engine, asked()).text


def test_a_timeout_too_short_for_every_call_ends_the_stage(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server, timeout_seconds=2.0, patience_seconds=2.0)

    async def never_answer(body: dict[str, Any], request: HttpRequest) -> Response | None:
        return await hang(body, request) if body and "logprobs" not in body else None

    server.misbehave = never_answer
    with pytest.raises(ServersError, match="timeout_seconds"):
        ask(engine, asked())


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_set_up_ends_the_stage_at_once(serve: Serve, connect: Connect, status: int) -> None:
    server = serve()
    engine = connect(server)
    server.misbehave = the_first(-1, lambda: refusal(status, "not for you"))
    with pytest.raises(ServersError, match=f"HTTP {status}: not for you"):
        ask(engine, asked())
    assert len(server.generations) == 1


def test_a_prompt_that_does_not_fit_is_never_sent(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server)
    with pytest.raises(ContextTooLongError, match="max_model_len"):
        ask(engine, asked("x" * 600))
    assert not server.generations


def test_a_server_with_a_limit_of_its_own_on_completions_is_refused(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server)
    short = {"text": "one two three", "finish_reason": "length"}
    body = {"model": "tiny", "choices": [short], "usage": {"prompt_tokens": 1, "completion_tokens": 3}}
    server.misbehave = the_first(1, lambda: JSONResponse(body))
    with pytest.raises(ServersError, match="--generation-config vllm"):
        ask(engine, asked(max_tokens=16))


def test_a_server_with_another_model_is_refused_with_the_command_that_serves_this_one(
    serve: Serve, connect: Connect, weights: Weights
) -> None:
    with pytest.raises(ServersError, match="it serves 'another', not 'tiny'") as caught:
        connect(serve(), serve(model="another"))
    assert f"vllm serve {weights.folder} --served-model-name tiny" in str(caught.value)


def test_a_server_may_call_the_configured_model_by_its_folder_or_by_served_model(
    serve: Serve, connect: Connect, weights: Weights
) -> None:
    connect(serve(model=str(weights.folder)))
    connect(serve(model="/somewhere/else/tiny"))
    connect(serve(model="gpt-tiny"), served_model="gpt-tiny")
    with pytest.raises(ServersError, match="not 'gpt-tiny'"):
        connect(serve(model="tiny"), served_model="gpt-tiny")
    with pytest.raises(ServersError, match="not 'tiny'"):
        connect(serve(model="else/tiny"))


def test_files_of_another_model_under_the_same_name_are_refused(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    def card(folder: Path) -> list[dict[str, Any]]:
        return [{"id": "tiny", "root": str(folder), "parent": None}]

    connect(serve(cards=card(write_tiny_model(tmp_path / "copy"))))
    with pytest.raises(ServersError, match="whose files are not those of"):
        connect(serve(cards=card(write_tiny_model(tmp_path / "trained", b"other weights"))))


def test_a_model_of_which_only_the_tokenizer_is_here_is_known_by_its_name(
    serve: Serve, connect: Connect, home: Home, tmp_path: Path
) -> None:
    described = locate_weights(str(write_tiny_model(tmp_path / "tiny", None)), "v1", home, served_elsewhere=True)
    server = serve(cards=[{"id": "tiny", "root": str(write_tiny_model(tmp_path / "theirs")), "parent": None}])
    assert ask(connect(server, weights=described), asked()).text


def test_a_context_shorter_than_promised_is_refused(serve: Serve, connect: Connect) -> None:
    cards = [{"id": "tiny", "root": None, "parent": None, "max_model_len": 256}]
    with pytest.raises(ServersError, match="--max-model-len 512"):
        connect(serve(cards=cards))


def test_servers_that_answer_differently_under_one_name_are_refused(serve: Serve, connect: Connect) -> None:
    connect(serve(), serve(logprobs=(-0.22, -1.8)))
    with pytest.raises(ServersError, match="different models under one name"):
        connect(serve(), serve(logprobs=(-1.9, -0.2)))


def test_a_server_that_tells_no_log_probabilities_is_refused(serve: Serve, connect: Connect) -> None:
    async def keep_quiet(body: dict[str, Any], request: HttpRequest) -> Response | None:
        return refusal(400, "logprobs are not supported") if body.get("logprobs") else None

    with pytest.raises(ServersError, match="logprobs are not supported"):
        connect(serve(misbehave=keep_quiet))


def test_a_server_that_does_not_take_token_ids_as_they_are_is_refused(serve: Serve, connect: Connect) -> None:
    server = serve()

    async def count_one_more(body: dict[str, Any], request: HttpRequest) -> Response | None:
        return server._answer({**body, "prompt": [0, *body["prompt"]]}) if body else None

    server.misbehave = count_one_more
    with pytest.raises(ServersError, match="does not take prompts as they are"):
        connect(server)


def test_settings_without_a_usable_url_are_refused(connect: Connect) -> None:
    with pytest.raises(ServersError, match="needs base_urls"):
        connect()
    with pytest.raises(ServersError, match="neither http:// nor https://"):
        connect(base_urls=["gpu-1:8000/v1"])


def adapted(weights: Weights, tmp_path: Path) -> Weights:
    adapter = tmp_path / "mine"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4}))
    (adapter / "adapter_model.safetensors").write_bytes(b"adapter")
    return Weights("tiny+mine", weights.folder, "0" * 64, adapter)


def test_an_adapter_is_asked_for_by_its_name_where_a_server_lists_it(
    serve: Serve, connect: Connect, weights: Weights, tmp_path: Path
) -> None:
    server = serve()
    server.cards.append({"id": "tiny+mine", "root": "/elsewhere/mine", "parent": "tiny"})
    ask(connect(server, weights=adapted(weights, tmp_path)), asked())
    assert server.generations[0]["model"] == "tiny+mine"


def test_an_adapter_is_loaded_where_the_server_takes_it(
    serve: Serve, connect: Connect, weights: Weights, tmp_path: Path
) -> None:
    server = serve()
    ask(connect(server, weights=adapted(weights, tmp_path)), asked())
    assert server.generations[0]["model"] == "tiny+mine"
    assert server.cards[1]["root"] == str(tmp_path / "mine")


def test_where_no_server_takes_the_adapter_the_command_is_told(
    serve: Serve, connect: Connect, weights: Weights, tmp_path: Path, said: list[str]
) -> None:
    async def load_none(body: dict[str, Any], request: HttpRequest) -> Response | None:
        return refusal(404, "Not Found") if "lora_name" in body else None

    with pytest.raises(ServersError, match="--enable-lora --max-lora-rank 4 --lora-modules tiny"):
        connect(serve(misbehave=load_none), weights=adapted(weights, tmp_path))
    assert "Not Found" in said[0]


def test_the_base_model_is_never_taken_for_its_adapter_nor_the_other_way(
    serve: Serve, connect: Connect, weights: Weights, tmp_path: Path
) -> None:
    with pytest.raises(ServersError, match="which the adapter belongs to"):
        connect(serve(model="another"), weights=adapted(weights, tmp_path))
    server = serve(cards=[{"id": "tiny", "root": "/elsewhere/mine", "parent": "base"}])
    with pytest.raises(ServersError, match="not 'tiny'"):
        connect(server)


def test_the_engine_outlives_event_loops_and_cancelled_calls(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server, calls_in_flight=2)
    server.misbehave = hang

    async def give_up() -> None:
        calls = [asyncio.create_task(engine.complete(asked(number=number))) for number in range(10)]
        await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(give_up())
    server.misbehave = the_first(0, Response)
    assert len(together(lambda: [engine.complete(asked(number=number)) for number in range(10)])) == 10
    assert len(together(lambda: [engine.complete(asked(number=number)) for number in range(10)])) == 10


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 200])
def test_the_api_key_reaches_the_server_and_nothing_else(
    serve: Serve,
    connect: Connect,
    home: Home,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CAI_API_KEY", KEY)
    server = serve()
    engine = connect(server, patience_seconds=0.2)

    async def echo(body: dict[str, Any], request: HttpRequest) -> Response | None:
        told = request.headers["authorization"]
        if not body or "logprobs" in body:
            return None
        return JSONResponse({"choices": told}) if status == 200 else refusal(status, f"no: {told}", x_told=told)

    server.misbehave = echo
    model = LedgeredModel("m", lambda: engine, Ledger(home.ledger))
    shown: list[str] = []
    try:
        asyncio.run(model.complete(asked()))  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001
        shown = [everything_about(error)]
    model.commit()
    assert server.authorizations == {f"Bearer {KEY}"}
    assert shown
    assert "[API key]" in shown[0] or status == 200
    files = [file.read_bytes() for file in home.root.rglob("*") if file.is_file()]
    assert KEY not in "\n".join([*shown, *said, caplog.text])
    assert not any(KEY.encode() in content for content in files)


def everything_about(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error.__context__) + repr(error.__cause__)


def test_without_a_key_no_key_is_made_up(serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAI_API_KEY", raising=False)
    server = serve()
    connect(server)
    assert server.authorizations == {"Bearer none"}
    monkeypatch.setenv("CAI_API_KEY", "a\x07b")
    with pytest.raises(ServersError, match="no HTTP header can carry") as caught:
        connect(server)
    assert "b" not in str(caught.value).split("CAI_API_KEY")[0]


def test_a_stage_survives_a_bad_row_and_a_server_that_dies_and_pays_for_each_call_once(
    serve: Serve, connect: Connect, home: Home
) -> None:
    server, other = serve(), serve()
    engine = connect(server, other, patience_seconds=10.0)
    rows: list[Row] = [{"prompt_id": f"{number:032x}", "text": f"{number:06}"} for number in range(60)]
    rows[17] = {**rows[17], "text": "a prompt of another length"}
    refuse = at_length(engine, asked(rows[17]["text"]), lambda: refusal(400, "not this one"))

    async def die_in_the_middle(body: dict[str, Any], request: HttpRequest) -> Response | None:
        await asyncio.sleep(0.01)
        if len(server.generations) >= 15:
            server.die()
            return await hang(body, request)
        return await refuse(body, request)

    server.misbehave = die_in_the_middle
    other.misbehave = refuse

    async def recipe(model: LanguageModel, row: Row) -> list[Row]:
        request = Request((Message("user", row["text"]),), Slot(STAGE, row["prompt_id"]), Sampling(max_tokens=16))
        completion = await model.complete(request)
        return [
            {
                "prompt_id": row["prompt_id"],
                "sample": 0,
                "completion": completion.text,
                "finish_reason": completion.finish_reason,
                "request_id": completion.request_id,
                "policy_model": "m",
            }
        ]

    home.staging.mkdir(parents=True)
    staged = StagedRows(home.staging, STAGE, None)
    ledger = Ledger(home.ledger)
    model = LedgeredModel("m", lambda: engine, ledger)
    run_rows(rows, len(rows), recipe, model, staged, lambda row: row["prompt_id"], 16, lambda progress: None)
    assert staged.row_count == 59
    assert staged.reasons == {"refused_request": 1}
    assert model.usage.misses == 59
    again = LedgeredModel("m", lambda: engine, ledger)
    paid = len(other.generations)
    staged = StagedRows(home.staging, STAGE, None)
    run_rows(rows, len(rows), recipe, again, staged, lambda row: row["prompt_id"], 16, lambda progress: None)
    assert (again.usage.hits, again.usage.misses) == (59, 0)
    assert len(other.generations) == paid + 1  # the bad row alone


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait until something happened that must happen soon."""
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def steps_of(size: float) -> dict[int, float]:
    """Log probabilities of the vocabulary whose differences are steps of logits."""
    return {token: -0.25 - size * (token % 23) for token in range(64)}


def test_a_server_that_rounds_its_logits_is_refused_where_the_settings_say_float32(
    serve: Serve, connect: Connect, weights: Weights
) -> None:
    coarse, fine = serve(), serve()
    coarse.logprobs, fine.logprobs = steps_of(0.125), steps_of(0.1303)
    with pytest.raises(ServersError, match="rounded to bfloat16") as caught:
        connect(coarse, head_dtype="float32", dtype="bfloat16")
    assert """--dtype bfloat16 --hf-overrides '{"head_dtype": "float32"}'""" in str(caught.value)
    connect(fine, head_dtype="float32", dtype="bfloat16")
    connect(coarse, head_dtype="auto", dtype="bfloat16")


def test_the_server_says_how_much_of_a_prompt_it_had_in_its_cache(serve: Serve, connect: Connect) -> None:
    server = serve()
    server.cached_tokens = 7
    assert ask(connect(server), asked()).cached_tokens == 7
    assert judge(connect(server)).cached_tokens == 7
