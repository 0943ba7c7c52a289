"""Events on their way from a proxy to their transport, with what may happen to them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from fedplane.localstack.faults import EventFaults

Send = Callable[[bytes], Awaitable[None]]
_GROUP_SECONDS = 0.5
_RETRY_SECONDS = 0.2
_SENDERS = 4


class Delivery:
    """Delivers every event that the faults let through, retrying while the transport is away, as the services do."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._ready: asyncio.Queue[bytes] = asyncio.Queue()
        self._group: list[bytes] = []
        self._timers: set[asyncio.TimerHandle] = set()
        self._random = random.Random()  # noqa: S311 - fault injection
        self._tasks: list[asyncio.Task[None]] = []
        self.faults = EventFaults()
        self.counts: Counter[str] = Counter()

    def configure(self, faults: EventFaults) -> None:
        """Use these faults from now on."""
        self.faults = faults
        self._random = random.Random(faults.seed)  # noqa: S311 - fault injection

    def start(self) -> None:
        """Begin to deliver."""
        self._tasks = [asyncio.create_task(self._deliver()) for _ in range(_SENDERS)]

    def emit(self, event: bytes, *, echo: bool) -> None:
        """An event came to be; *echo*: it was caused by a write of the engine."""
        self.counts["emitted"] += 1
        self.counts["echoes"] += echo
        if self._random.random() < self.faults.drop:
            self.counts["dropped"] += 1
            return
        copies = 1 + (self._random.random() < self.faults.duplicate)
        self.counts["duplicated"] += copies - 1
        for _ in range(copies):
            self._delay(event)

    def _delay(self, event: bytes) -> None:
        low, high = self.faults.delay_seconds
        if high <= 0:
            self._shuffle(event)
            return
        self.counts["delayed"] += 1
        self._later(self._random.uniform(low, high), lambda: self._shuffle(event))

    def _shuffle(self, event: bytes) -> None:
        if self.faults.reorder <= 1:
            self._ready.put_nowait(event)
            return
        self._group.append(event)
        if len(self._group) >= self.faults.reorder:
            self._release_group()
        elif len(self._group) == 1:
            self._later(_GROUP_SECONDS, self._release_group)

    def _release_group(self) -> None:
        group, self._group = self._group, []
        self._random.shuffle(group)
        for event in group:
            self._ready.put_nowait(event)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(handle)
            action()

        handle = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(handle)

    async def _deliver(self) -> None:
        while True:
            event = await self._ready.get()
            while True:
                try:
                    await self._send(event)
                except (OSError, TimeoutError, ConnectionError):
                    self.counts["delivery_retries"] += 1
                    await asyncio.sleep(_RETRY_SECONDS)
                else:
                    break
            self.counts["delivered"] += 1
            self._ready.task_done()

    async def drain(self, seconds: float) -> None:
        """Deliver what is on its way, within a bound, then stop."""
        while self._timers:
            handle = self._timers.pop()
            handle.cancel()
            handle._run()  # noqa: SLF001 - its time is now
        self._release_group()
        try:
            await asyncio.wait_for(self._ready.join(), seconds)
        except TimeoutError:
            self.counts["undelivered_at_stop"] += self._ready.qsize()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
