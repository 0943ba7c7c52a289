"""What the functions of one process share: the state of every pair, opened in the first invocation that needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import structlog

from federation import settings, wiring
from federation.clock import SystemClock
from federation.model import Change
from federation.payloads import Malformed, Parsed
from federation.payloads.event_grid import decode_queue_text, parse
from federation.ports import Clock, State
from federation.progress import DeadLetter, MarkResult
from federation.settings import PairSettings
from federation.sources.build import blob_scope, http_target
from federation.sources.common import Tell, ask_scans
from federation.sources.event_grid_http import BODY_LIMIT_BYTES, Answer, BodyTooLarge, EventGridHttp
from reconciler.wanted import ask

QUEUE = "event_grid_queue"
HTTP = "event_grid_webhook"


class PairSink:
    """``ports.ChangeSink`` of one pair."""

    def __init__(self, pair: PairSettings, state: State, clock: Clock) -> None:
        self.name = pair.name
        self.scope = blob_scope(pair)
        self.state = state
        self._clock = clock
        self.target = http_target(pair, self, clock, on_gap=self.gap)
        self._laid_out = False

    async def check(self) -> None:
        """Raise RetryLater when Redis is away, UsageError when its state has another layout than our settings.

        An empty state is left empty: only the engine may begin one, because it must then unite both sides first (design 4.5).
        """
        self._laid_out = await self.state.open(create=False)

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As in the port."""
        if not self._laid_out:
            await self.check()
        return await self.state.mark(changes)

    async def gap(self, prefix: str = "") -> None:
        """Something changed that only a scan can find: the process that scans is asked for it. Raises RetryLater."""
        if not self._laid_out:
            await self.check()
        await ask(self.state, prefix, now_us=self._clock.now_us())


class Pairs:
    """All pairs of the settings. Kept as long as the process lives: no host tells of its end (facts/functions.md, Process)."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._opening = asyncio.Lock()
        self._open: AsyncExitStack | None = None
        self._sinks: list[PairSink] = []
        self._queue = Tell(QUEUE)
        self._http = EventGridHttp([], Tell(HTTP))

    async def check(self) -> None:
        """Raise RetryLater or UsageError when marks cannot be made now."""
        for sink in await self._all():
            await sink.check()

    async def take_message(self, body: bytes) -> None:
        """Mark what a message of the queue, or an event in JSON, names.

        One that cannot be parsed is kept as a dead letter. Raises RetryLater.
        """
        self._queue.counts["received"] += 1
        for sink, parsed in await self._parsed(body):
            self._queue.parsed(parsed)
            await ask_scans(parsed, sink.gap)
            self._queue.marked(await sink.mark(parsed.changes))

    async def _parsed(self, body: bytes) -> list[tuple[PairSink, Parsed]]:
        sinks = await self._all()
        try:
            event = decode_queue_text(body.decode(errors="replace"))
            return [(sink, parse(event, sink.scope)) for sink in sinks]
        except Malformed as fault:
            # Which pair it was meant for cannot be told, so it is kept with the first.
            await sinks[0].state.bury(DeadLetter(QUEUE, str(fault), body, self._clock.now_us()))
            self._queue.dead(str(fault))
            return []

    async def take_request(self, method: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Answer:
        """Answer a delivery or a handshake of the webhook. Raises RetryLater when the state cannot be opened."""
        await self._all()
        if method == "OPTIONS":
            return self._http.handshake(headers, query)

        async def read() -> bytes:
            if len(body) > BODY_LIMIT_BYTES:
                raise BodyTooLarge
            return body

        return await self._http.events(headers, query, read)

    async def _all(self) -> list[PairSink]:
        async with self._opening:
            if self._open is None:
                _configure_logging()
                async with AsyncExitStack() as stack:
                    config = settings.load()
                    self._sinks = [
                        PairSink(pair, await stack.enter_async_context(wiring.open_state(config, pair, self._clock)), self._clock)
                        for pair in config.pair
                    ]
                    # The host's address is open to the world, so a pair that asks for no proof takes nothing by HTTP.
                    targets = [
                        one.target for one in self._sinks if one.target.secret is not None or one.target.tokens is not None
                    ]
                    self._http = EventGridHttp(targets, Tell(HTTP))
                    self._open = stack.pop_all()
        return self._sinks

    async def close(self) -> None:
        """Release everything; for tests, since no host asks for it."""
        if self._open is not None:
            await self._open.aclose()
            self._open = None


def _configure_logging() -> None:
    """JSON through the handlers that the worker installed; replacing them would lose all logs (facts/functions.md, Logs)."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


PAIRS = Pairs()
