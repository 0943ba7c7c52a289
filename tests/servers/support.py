"""What the tests on real servers share: a sink that remembers, a source that runs, waiting on conditions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.model import Change
from federation.ports import ChangeSink, Source
from federation.progress import MarkResult
from federation.settings import RedisSettings
from federation.state.embedded import EmbeddedRedis, connect
from federation.state.redis_state import RedisState

PATIENCE_SECONDS = 15.0


class QuickClock(SystemClock):
    """Pauses are short, so that back-off does not cost the tests minutes."""

    async def sleep(self, seconds: float) -> None:
        """At most 50 ms."""
        await asyncio.sleep(min(seconds, 0.05))


async def no_scan(prefix: str = "") -> None:
    """For a source whose gaps a test does not look at."""
    del prefix


@dataclass
class Sink:
    """``ports.ChangeSink`` that remembers; fails *failures* times first; waits for *gate* when closed."""

    calls: list[list[Change]] = field(default_factory=list)
    failures: int = 0
    failed: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As in the port."""
        await self.gate.wait()
        if self.failed < self.failures:
            self.failed += 1
            raise RetryLater("Redis does not answer", reason="redis_unavailable")
        self.calls.append(list(changes))
        return MarkResult(marked=len(changes), echoes=0)

    @property
    def keys(self) -> list[str]:
        """All that was marked, in order."""
        return [change.key for call in self.calls for change in call]


@dataclass
class Counting:
    """``ports.ChangeSink`` over a real one, whose failures it counts."""

    inner: ChangeSink
    failed: int = 0

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As in the port."""
        try:
            return await self.inner.mark(changes)
        except RetryLater:
            self.failed += 1
            raise


async def eventually(check: Callable[[], bool | Awaitable[bool]], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until *check* is true; AssertionError saying *what* after *seconds*."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = check()
                if found if isinstance(found, bool) else await found:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"did not come true: {what}") from None


@asynccontextmanager
async def running(source: Source) -> AsyncIterator[asyncio.Task[None]]:
    """The source at work; stopped at the end, and a failure of it shown."""
    task = asyncio.create_task(source.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def state_in(server: EmbeddedRedis) -> AsyncIterator[RedisState]:
    """A new pair's state in *server*."""
    client, _ = await connect(RedisSettings(url=f"unix://{server.socket}"))
    state = RedisState(client, "pair", shards=4, clock=SystemClock())
    await state.open()
    yield state
    await state.close()
