"""The engine of one process: all pairs of the settings file, one byte budget, one stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from federation.clock import SystemClock
from federation.ports import Clock
from federation.settings import Settings
from federation.state.embedded import EmbeddedRedis
from federation.sync.budget import ByteBudget
from federation.sync.stopping import end
from federation.telemetry import logger
from federation.wiring import gate_book, open_pair
from fedplane.pair_engine import PairEngine
from fedplane.patience import patiently
from operations.exporters import Exporters, exporting
from operations.publish import Publisher, publish

_log = logger("fedplane.engine")


class Engine:
    """Build with ``open_engine``; ``run`` returns after ``stop`` was set."""

    def __init__(
        self,
        pairs: list[PairEngine],
        stop: asyncio.Event,
        keeper: asyncio.Task[None] | None = None,
        publishing: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.pairs = pairs
        self.stop = stop
        self._keeper = keeper
        self._publishing = publishing

    async def run(self) -> None:
        """Work until stopped. When one pair fails, the others are stopped in order too, and its error is raised."""
        tasks = [asyncio.create_task(pair.run(self.stop)) for pair in self.pairs]
        # These never end by themselves but by a fault of ours.
        beside = [asyncio.create_task(self._publishing())] if self._publishing is not None else []
        kept = [*beside, self._keeper] if self._keeper is not None else beside
        try:
            await asyncio.wait([*tasks, *kept], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.stop.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [one for one in kept if one.done()]
        await end(beside)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        for one in failed:
            one.result()


@asynccontextmanager
async def open_engine(settings: Settings, stop: asyncio.Event) -> AsyncIterator[Engine]:
    """Open every pair. Raises UsageError, and RetryLater when Redis stays away."""
    clock = SystemClock()
    budget = ByteBudget(settings.transfer.memory_bytes)
    book = gate_book(settings, clock)
    keeper: asyncio.Task[None] | None = None
    async with AsyncExitStack() as stack:
        if settings.redis.url == "embedded":
            server = EmbeddedRedis(settings.redis.directory)
            await server.start()
            stack.push_async_callback(server.stop)
            keeper = asyncio.create_task(server.keep())
            stack.callback(keeper.cancel)
        pairs = []
        for pair in settings.pair:
            opening = partial(open_pair, settings, pair, clock, budget, book)
            runtime = await patiently(lambda opening=opening: stack.enter_async_context(opening()), clock)  # type: ignore[misc]
            pairs.append(PairEngine(runtime, settings.reconcile))
        exporters = stack.enter_context(exporting(settings.metrics))
        yield Engine(pairs, stop, keeper, _publishing(pairs, exporters, clock) if exporters is not None else None)


def _publishing(pairs: list[PairEngine], exporters: Exporters, clock: Clock) -> Callable[[], Coroutine[Any, Any, None]]:
    publishers = []
    for pair in pairs:
        publisher = Publisher(exporters.instruments, pair.runtime.state, pair.runtime.settings, clock)
        pair.runtime.worker.stats.on_line = publisher.line
        publishers.append((publisher, partial(getattr, pair, "last")))
    return partial(publish, publishers, exporters, clock)


def stop_on_signals(stop: asyncio.Event) -> None:
    """First SIGTERM or SIGINT: stop in order. Second: end at once."""

    def handle() -> None:
        if stop.is_set():
            os._exit(130)
        _log.info("stopping: finishing what is under way; once more to stop at once")
        stop.set()

    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, handle)
