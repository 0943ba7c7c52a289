"""What the functions of one process share, opened in the first invocation that needs it.

Kept as long as the process lives: no host tells of its end (facts/functions.md, Process).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from federation import wiring
from federation.clock import SystemClock
from federation.errors import FederationError, RetryLater, UsageError
from federation.metrics import Point
from federation.model import Change
from federation.payloads import Malformed, Parsed
from federation.payloads.event_grid import BlobScope, decode_queue_text, parse
from federation.progress import DeadLetter, MarkResult
from federation.settings import PairSettings, Settings, load
from federation.sources.build import blob_scope, http_target
from federation.sources.common import Tell, ask_scans
from federation.sources.event_grid_http import BODY_LIMIT_BYTES, Answer, BodyTooLarge, EventGridHttp
from federation.sync.budget import ByteBudget
from federation.sync.stopping import end
from federation.telemetry import logger
from function_app.logs import configure_logging
from function_app.pair import SHARES_SECONDS, FunctionPair
from function_app.queues import Queues
from function_app.visit import Visit, visit
from operations.exporters import Exporters, exporting
from operations.publish import EVERY_SECONDS, Publisher, Told, events

QUEUE = "event_grid_queue"
HTTP = "event_grid_webhook"
_IDLE_SECONDS = 10.0
"""A process may be gone after any invocation; what is lost then was counted in the last of these seconds."""
_WAITED_FOR_SECONDS = 2.0
"""How long a sender that waits for the answer is kept for what there is to tell."""
_log = logger("fedplane.functions")


class LatePair:
    """``ports.ChangeSink`` of a pair that is opened when something is to be marked."""

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self._name = name

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As in the port."""
        return await (await self._process.pair(self._name)).mark(changes)

    async def gap(self, prefix: str = "") -> None:
        """As ``sources.common.OnGap``."""
        await (await self._process.pair(self._name)).gap(prefix)


class Process:
    """All pairs of the settings."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._config: Settings | None = None
        self._pairs: dict[str, FunctionPair] = {}
        self._failures = 0
        self._scopes: dict[str, BlobScope] = {}
        self._http: EventGridHttp | None = None
        self._http_tell = Tell(HTTP)
        self._http_pairs: list[str] = []
        self._http_told: Told = {}
        self._exporters: Exporters | None = None
        self._publishers: dict[str, Publisher] = {}
        self._counted = float("-inf")
        self._under_way = 0
        self._publishing = asyncio.Lock()

    @property
    def config(self) -> Settings:
        """The settings, read once. Raises UsageError."""
        if self._config is None:
            self._config = self._load()
        return self._config

    def _load(self) -> Settings:
        configure_logging()
        config = load()
        logging.getLogger("fedplane").setLevel(config.log.level.upper())
        if config.redis.url == "embedded":
            raise UsageError(
                'redis.url is "embedded", but the instances of the functions app share one state. '
                "Set redis.url to a Redis that all of them reach.",
                reason="bad_settings",
            )
        self._scopes = {pair.name: blob_scope(pair) for pair in config.pair}
        self._queues = Queues(config.functions)
        self._queues.check(config.pair)
        # Only now: each attempt that is refused would leave exporters behind. A page of numbers would be one instance's.
        metrics = config.metrics.model_copy(update={"prometheus_listen": ""})
        self._exporters = self._stack.enter_context(exporting(metrics))
        self._stack.push_async_callback(self._queues.close)
        self._budget = ByteBudget(config.transfer.memory_bytes)
        self._book = wiring.gate_book(config, self._clock)
        return config

    @property
    def queues(self) -> Queues:
        """The app's queues."""
        if self._config is None:
            self._config = self._load()
        return self._queues

    def settings_of(self, name: str) -> PairSettings | None:
        """Of the pair called *name*; None when there is none, or no longer."""
        return next((pair for pair in self.config.pair if pair.name == name), None)

    async def pair(self, name: str) -> FunctionPair:
        """The pair called *name*, opened. Raises RetryLater, UsageError, and Halt when its settings do not fit its records."""
        failed_before = self._failures
        async with self._opening:
            if name in self._pairs:
                return self._pairs[name]
            if self._failures != failed_before:
                # Many invocations wait here while Redis is away: one after the other they would wait for it for minutes.
                raise RetryLater(f"pair {name!r} could not be opened just now", reason="redis_unavailable")
            try:
                found = self._pairs[name] = await self._open(name)
            except RetryLater:
                self._failures += 1
                raise
            return found

    async def _open(self, name: str) -> FunctionPair:
        settings = self.settings_of(name)
        if settings is None:
            raise UsageError(f"There is no pair {name!r} in the settings.", reason="no_such_pair")
        async with AsyncExitStack() as stack:
            opening = wiring.open_pair(self.config, settings, self._clock, self._budget, self._book)
            made = FunctionPair(self.config, await stack.enter_async_context(opening), self._queues)
            await made.say()  # before any mark: the counts of a process that nobody heard of may be forgotten
            if self._exporters is not None:  # known to who publishes only once the pair is: from here on nothing waits
                publisher = Publisher(self._exporters.instruments, made.state, settings, self._clock, owner="functions")
                made.worker.stats.on_line = publisher.line
                made.on_read = publisher.read
                self._publishers[name] = publisher
            self._stack.push_async_callback(stack.pop_all().aclose)
        return made

    async def pairs(self) -> AsyncIterator[FunctionPair]:
        """All pairs, each opened as it comes; what cannot be opened now is told and left out."""
        for settings in self.config.pair:
            try:
                yield await self.pair(settings.name)
            except FederationError as error:
                _log.error("pair cannot be opened", pair=settings.name, error=str(error))

    async def check(self) -> None:
        """Raise RetryLater, UsageError or Halt when marks cannot be made now."""
        for settings in self.config.pair:
            await (await self.pair(settings.name)).state.open(create=False)

    @asynccontextmanager
    async def work(self, seconds: float, *, within_seconds: float | None = None, publishes: bool = True) -> AsyncIterator[Visit]:
        """One invocation: what is marked inside is worked on for up to *seconds*; then what there is to tell is told.

        *within_seconds*: after which all of it ends, because its caller waits no longer. Not *publishes*: it publishes itself.
        """
        loop = asyncio.get_running_loop()
        ends = None if within_seconds is None else loop.time() + within_seconds
        telling = asyncio.create_task(self._keep_telling())
        self._under_way += 1
        try:
            async with visit(seconds, within_seconds=within_seconds) as made:
                yield made
        finally:
            self._under_way -= 1
            await end([telling])
        try:
            async with asyncio.timeout_at(None if ends is None else min(ends, loop.time() + _WAITED_FOR_SECONDS)):
                await self._tell()
                if publishes and self._publish_due():
                    await self.publish([])
        except TimeoutError:
            _log.warning("somebody waits: what there is to tell is told by a later invocation")

    def _publish_due(self) -> bool:
        """Each minute; and sooner when nothing else is under way: there may be no later invocation."""
        passed = self._clock.monotonic_seconds() - self._counted
        return passed >= (EVERY_SECONDS if self._under_way else _IDLE_SECONDS)

    async def _keep_telling(self) -> None:
        """While an invocation takes long."""
        while True:
            await self._clock.sleep(SHARES_SECONDS)
            await self._tell()

    async def _tell(self) -> None:
        """Heartbeats of this process, and what its pairs found of the sides, now and then."""
        for pair in list(self._pairs.values()):
            try:
                await pair.say_now_and_then()
            except RetryLater as error:
                _log.warning("nothing could be told", pair=pair.name, error=str(error))

    async def levels(self) -> list[Point]:
        """The gauges of all pairs that can be read."""
        points: list[Point] = []
        for name, publisher in list(self._publishers.items()):  # another pair may be opened meanwhile
            try:
                points += await publisher.levels()
            except RetryLater as error:
                # Nothing is sent for the pair: the alert on absence tells.
                _log.warning("no metrics: the state cannot be read", pair=name, error=str(error))
        return points

    async def publish(self, points: list[Point]) -> None:
        """Send *points* and what this process counted, now: a frozen process sends nothing later."""
        self._counted = self._clock.monotonic_seconds()
        if self._exporters is None:
            return
        async with self._publishing:  # levels of the sweep are not dropped by another invocation before they are sent
            for name, publisher in list(self._publishers.items()):
                publisher.count(await self._pairs[name].beat(fresh_seconds=0))
            self._exporters.instruments.hold(points)
            if not await asyncio.to_thread(self._exporters.flush):
                _log.warning("metrics were not taken in time")

    # -------------------------------------------------------------------------------------------------------------- events

    async def take_message(self, body: bytes) -> None:
        """Mark what a message of the queue, or an event in JSON, names; one that cannot be parsed is kept. Raises RetryLater."""
        config = self.config
        try:
            event = decode_queue_text(body.decode(errors="replace"))
            parsed = {name: parse(event, scope) for name, scope in self._scopes.items()}
        except Malformed as fault:
            # Which pair it was meant for cannot be told, so it is kept with the first.
            await self.bury(await self.pair(config.pair[0].name), str(fault), body)
            return
        meant = {name: one for name, one in parsed.items() if one.changes or one.scan_prefixes}
        for name, one in (meant or dict(list(parsed.items())[:1])).items():
            await _take(await self.pair(name), one)

    async def bury(self, pair: FunctionPair, reason: str, body: bytes) -> None:
        """Keep what cannot be parsed. Raises RetryLater."""
        await pair.state.bury(DeadLetter(QUEUE, reason, body, self._clock.now_us()))
        pair.tell(QUEUE).dead(reason)

    async def take_request(self, method: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Answer:
        """Answer a delivery or a handshake of the webhook."""
        if self._http is None:
            # The host's address is open to the world, so a pair that asks for no proof takes nothing by HTTP.
            late = {pair.name: LatePair(self, pair.name) for pair in self.config.pair}
            made = [http_target(pair, late[pair.name], self._clock, on_gap=late[pair.name].gap) for pair in self.config.pair]
            targets = [one for one in made if one.secret is not None or one.tokens is not None]
            self._http_pairs = [name for name, one in zip(late, made, strict=True) if one in targets]
            self._http = EventGridHttp(targets, self._http_tell)
        try:
            return await self._answer(self._http, method, headers, query, body)
        finally:
            self._count_http()

    async def _answer(
        self, http: EventGridHttp, method: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes
    ) -> Answer:
        if method == "OPTIONS":
            return http.handshake(headers, query)

        async def read() -> bytes:
            if len(body) > BODY_LIMIT_BYTES:
                raise BodyTooLarge
            return body

        return await http.events(headers, query, read)

    def _count_http(self) -> None:
        """One webhook serves all its pairs, and who was refused named none: each of them tells all of its counts."""
        now: Told = {HTTP: self._http_tell.as_dict()}
        if self._exporters is not None:
            for name in self._http_pairs:
                self._exporters.instruments.count(events(name, now, self._http_told))
        self._http_told = now

    async def close(self) -> None:
        """Release everything; for tests, since no host asks for it."""
        await self._stack.aclose()


async def _take(pair: FunctionPair, parsed: Parsed) -> None:
    tell = pair.tell(QUEUE)
    tell.counts["received"] += 1
    tell.parsed(parsed)
    try:
        await ask_scans(parsed, pair.gap)
        if parsed.changes:
            tell.marked(await pair.mark(parsed.changes))
    except Exception as error:
        # The message is hidden until it comes back: the sweep, which sees none, has to hear of it (sweeping.py).
        tell.down(error)
        with contextlib.suppress(RetryLater):
            await pair.say_now_and_then()
        raise
    tell.last_error = ""


PROCESS = Process()
