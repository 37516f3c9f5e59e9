"""Several servers of one model: which are up, which is asked next, what is asked again, and when to give up.

A call goes to the server with the most room. A server that does not answer is left out, asked again with growing
pauses, and taken back when it answers and still serves the same model. It knows neither prompts nor HTTP.
"""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from cai_dagster.calls.requests import RefusedRequestError
from cai_dagster.errors import RowError
from resources.engines.http.labels import LABEL_QUERIES, TokenNames
from resources.engines.http.models import ExpectedModel, ModelCard, NotServedError, ServersError
from resources.engines.http.server import Body, Server, ServerCompletion, ServerFault, UnansweredError

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
ATTEMPTS_OF_A_ROW = 3
SAME_PROBABILITY = 0.1  # bfloat16 differs from float32 by up to 0.05


@dataclass(frozen=True)
class Probe:
    """A small request that all servers answer alike if they serve the same model."""

    token_ids: list[int]
    labels: list[int]
    names: TokenNames


@dataclass
class _Call:
    """What became of one call so far; calls and probes that others had answered when it failed first."""

    started: float = field(default_factory=time.monotonic)
    failures: int = 0
    attempts: int = 0
    failed_first: float = 0.0
    calls_before: int = 0
    probes_before: int = 0


class ServerPool:
    """All servers of one engine; everything here runs in one event loop."""

    def __init__(
        self, servers: list[Server], expected: ExpectedModel, probe: Probe, log: Callable[[str], None]
    ) -> None:
        self._servers = servers
        self._expected = expected
        self._probe = probe
        self._log = log
        self._patience = expected.settings.patience_seconds
        self._model_of: tuple[str, list[float]] | None = None
        self._silent_since: float | None = None
        self._answered_calls = 0
        self._answered_probes = 0
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._revivals: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Ask every server what it serves.

        Raises ServersError when one serves something else, and when none answers for `patience_seconds`.
        """
        await asyncio.gather(*(self._first_contact(server) for server in self._servers))
        if any(server.refused for server in self._servers):
            raise NotServedError(self._states([server for server in self._servers if server.refused]))
        server = await self._room(time.monotonic())
        self._release(server)

    async def ask(self, body: Callable[[Server], Body]) -> tuple[Server, ServerCompletion]:
        """The answer of some server, asked again until there is one.

        Raises RowError for what is wrong with this call only, ServersError when the servers cannot be used any more.
        """
        call = _Call()
        while True:
            server = await self._room(call.started)
            sent = time.monotonic()
            unanswered: UnansweredError | None = None
            try:
                completion = await server.complete(body(server))
            except UnansweredError as error:
                unanswered = error
            except RowError:
                self._note_answer(server)
                raise
            except ServersError as error:
                raise ServersError(f"{server.url}: {error}") from None
            else:
                self._note_answer(server)
                return server, completion
            finally:
                self._release(server)
            self._note_trouble(server, unanswered, sent)
            self._note_failure(call, unanswered)
            await asyncio.sleep(_pause(call.attempts))

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(server.close() for server in self._servers))

    async def _room(self, started: float) -> Server:
        """The server with the most room, one place of it taken. Raises ServersError when there is none for too long."""
        look_again = max(0.05, min(5.0, self._patience / 4))
        while True:
            self._refuse_to_wait_longer(started)
            server = min((server for server in self._servers if server.room), key=lambda one: one.load, default=None)
            if server is not None:
                server.in_flight += 1
                return server
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[waiting] = None
            try:
                await asyncio.wait((waiting,), timeout=look_again)
            except asyncio.CancelledError:
                self._waiting.pop(waiting, None)
                self._wake()  # it may have been given a place that another one can use
                raise
            self._waiting.pop(waiting, None)

    def _release(self, server: Server) -> None:
        server.in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        """Let as many waiting calls look again as there is room."""
        for waiting in list(islice(self._waiting, sum(server.room for server in self._servers))):
            del self._waiting[waiting]
            waiting.set_result(None)

    def _note_answer(self, server: Server) -> None:
        server.answered()
        self._silent_since = None
        self._answered_calls += 1

    def _note_trouble(self, server: Server, unanswered: UnansweredError, sent: float) -> None:
        server.troubled(unanswered, sent)
        if self._silent_since is None:
            self._silent_since = time.monotonic()
        if unanswered.rest:
            asyncio.get_running_loop().call_later(unanswered.rest, self._wake)
        if server.lost:
            self._log(f"{server.url} does not answer: {server.state}. The others go on; it is asked again.")
            self._look_for(server)

    def _note_failure(self, call: _Call, unanswered: UnansweredError) -> None:
        """Raise RefusedRequestError for a call that fails time and again while the servers answer others.

        A server's own failure (5xx) is this row's when the server answers the probe; a timeout only when it answers
        other rows, for a too short `timeout_seconds` fails them all.
        """
        call.attempts += 1
        if unanswered.fault in {ServerFault.limited, ServerFault.gone}:
            return
        now = time.monotonic()
        call.failures += 1
        if call.failures == 1:
            call.failed_first, call.calls_before, call.probes_before = now, self._answered_calls, self._answered_probes
        if call.failures < ATTEMPTS_OF_A_ROW or now - call.failed_first <= self._patience:
            return
        times = f"{call.failures} times in {now - call.failed_first:,.0f} s (patience_seconds)"
        probed = unanswered.fault == ServerFault.failed and self._answered_probes > call.probes_before
        if not probed and self._answered_calls == call.calls_before:
            raise ServersError(f"{unanswered}, {times}, and no call was answered. {self._states(self._servers)}")
        raise RefusedRequestError(f"{unanswered}, {times}, while other calls were answered")

    def _refuse_to_wait_longer(self, started: float) -> None:
        if all(server.refused for server in self._servers):
            raise ServersError(f"no server is left that serves {self._expected.name}. {self._states(self._servers)}")
        if self._silent_since is None or any(server.well for server in self._servers):
            return
        if time.monotonic() - max(self._silent_since, started) > self._patience:
            raise ServersError(
                f"no server has answered for {self._patience:g} s (patience_seconds). {self._states(self._servers)} "
                f"Start one (`{self._expected.command}`) and run again: what was answered is in the ledger and is "
                "not asked again."
            )

    def _states(self, servers: list[Server]) -> str:
        return " ".join(
            f"{server.url}: {server.state}{'' if server.state.endswith('.') else '.'}" for server in servers
        )

    async def _first_contact(self, server: Server) -> None:
        try:
            await self._contact(server)
        except UnansweredError as error:
            server.state = str(error)
            self._silent_since = time.monotonic()
            self._log(f"{server.url} does not answer: {error}. It is asked again.")
            self._look_for(server)
        except ServersError as error:
            server.state, server.refused = str(error), True

    def _look_for(self, server: Server) -> None:
        server.live = False
        revival = asyncio.get_running_loop().create_task(self._revive(server))
        self._revivals.add(revival)
        revival.add_done_callback(self._revivals.discard)

    async def _revive(self, server: Server) -> None:
        """Ask a server with growing pauses until it answers and serves the model that is meant."""
        attempts, rest = 0, 0.0
        while not server.live:
            attempts += 1
            await asyncio.sleep(max(rest, _pause(attempts)))
            rest = 0.0
            try:
                await self._contact(server)
            except UnansweredError as error:
                server.state, server.refused, rest = str(error), False, error.rest
            except ServersError as error:
                if not server.refused:
                    self._log(f"{server.url} is back but not used: {error}")
                server.state, server.refused = str(error), True
        self._log(f"{server.url} answers again")

    async def _contact(self, server: Server) -> None:
        """Take a server into use.

        Raises ServersError when it serves another model, UnansweredError when it does not answer.
        """
        server.answers_as = None
        cards = await server.models()
        card = self._expected.card(cards)
        if card is None and self._expected.weights.adapter is not None:
            card, cards = await self._loaded_adapter(server, cards)
        if card is None:
            names = ", ".join(repr(one.id) for one in cards) or "nothing"
            raise ServersError(f"it serves {names}, not {self._expected.name!r}. {self._expected.remedy}")
        self._expected.refuse_short_context(card, cards)
        await asyncio.to_thread(self._expected.refuse_other_weights, card, cards)
        server.model = card.id
        self._refuse_other_behaviour(server, await self._behaviour(server))
        if self._expected.wants_fine_logits:
            self._expected.refuse_coarse_logits(await self._likeliest(server))
        self._answered_probes += 1
        self._silent_since = None
        server.live, server.refused, server.state = True, False, "answers"
        server.answered()
        self._wake()

    async def _loaded_adapter(self, server: Server, cards: list[ModelCard]) -> tuple[ModelCard | None, list[ModelCard]]:
        """The adapter's entry after the server was told to load it; servers that do not do that say so."""
        self._expected.refuse_other_base(cards)
        try:
            await server.load_adapter(self._expected.name, str(self._expected.weights.adapter))
        except (RowError, ServersError, UnansweredError) as error:
            self._log(f"{server.url} does not load the adapter: {error}")
        cards = await server.models()
        return self._expected.card(cards), cards

    async def _behaviour(self, server: Server) -> list[float]:
        """Probabilities of the probe's labels, asked for in the best way that the server takes."""
        said = "no log probabilities in its answer"
        for query in LABEL_QUERIES:
            server.extensions = query.extensions
            body = {"prompt": self._probe.token_ids, "max_tokens": 1, "temperature": 0.0}
            try:
                completion = await server.complete({**body, **query.fields(self._probe.labels)})
            except RowError as error:
                said = str(error)
                continue
            counted = completion.usage.prompt_tokens
            if counted != len(self._probe.token_ids):
                raise ServersError(
                    f"it counts {counted} tokens in a prompt of {len(self._probe.token_ids)} token ids: it does not "
                    "take prompts as they are."
                )
            returned = completion.top_logprobs
            logprobs = [self._probe.names.read(returned, label) for label in self._probe.labels]
            if returned and not (query.exact and None in logprobs):
                server.label_query, server.answers_as = query, completion.model
                return [0.0 if logprob is None else math.exp(logprob) for logprob in logprobs]
        raise ServersError(f"it does not tell the log probabilities of tokens ({said}).")

    async def _likeliest(self, server: Server) -> list[float]:
        """Log probabilities of as many of the likeliest tokens after the probe as the server tells."""
        for top in (20, 5):
            body = {"prompt": self._probe.token_ids, "max_tokens": 1, "temperature": 0.0, "logprobs": top}
            with contextlib.suppress(RowError):
                returned = (await server.complete(body)).top_logprobs.values()
                return sorted((value for value in returned if value is not None), reverse=True)
        return []

    def _refuse_other_behaviour(self, server: Server, behaviour: list[float]) -> None:
        """All servers of an engine must answer the probe alike; the first one sets the measure."""
        if self._model_of is None:
            self._model_of = (server.url, behaviour)
        url, measure = self._model_of
        pairs = [(behaviour, measure)]
        if all(behaviour) and all(measure):
            pairs.append(([value / sum(behaviour) for value in behaviour], [value / sum(measure) for value in measure]))
        if any(
            abs(one - other) > SAME_PROBABILITY
            for ours, theirs in pairs
            for one, other in zip(ours, theirs, strict=True)
        ):
            shown, others = (", ".join(f"{value:.3g}" for value in values) for values in (behaviour, measure))
            raise ServersError(
                f"it gives the probabilities {shown} where {url} gives {others}: the two serve different models under "
                f"one name. {self._expected.remedy}"
            )


def _pause(attempts: int) -> float:
    """Seconds before the next attempt: twice as many each time, with jitter."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(attempts - 1, 16))
    return random.uniform(longest / 2, longest)  # noqa: S311
