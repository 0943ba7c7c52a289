"""One invocation: how long it may work, and the work it waits for. Nothing outlives it, since nothing else is sure to run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from federation.sync.stopping import end

MOST_DRAINS = 8
"""Shards that one invocation works on at a time; for more it rings, so that other instances help."""
GRACE_SECONDS = 5.0
"""For what is under way when the time is over."""
_SLACK_SECONDS = 3.0


class Visit:
    """Until when shards may be drained in this invocation, and the drains under way."""

    def __init__(self, seconds: float, within_seconds: float | None = None) -> None:
        now = asyncio.get_running_loop().time()
        self._until = now + seconds
        self._ends = float("inf") if within_seconds is None else now + within_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults: list[BaseException] = []

    @property
    def left_seconds(self) -> float:
        """Time left to drain."""
        return max(0.0, self._until - asyncio.get_running_loop().time())

    @property
    def takes_more(self) -> bool:
        """Whether another shard may be begun."""
        return len(self._tasks) < MOST_DRAINS and self.left_seconds > 0

    def add(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin *work*; the invocation does not end before it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._faults.append(fault)

    async def done(self) -> None:
        """Wait for the work, cut off what does not end, and raise what a fault of ours raised."""
        try:
            if self._tasks:
                left = max(0.0, self._ends - asyncio.get_running_loop().time())
                patience = min(left, self.left_seconds + GRACE_SECONDS + _SLACK_SECONDS)
                await asyncio.wait(list(self._tasks), timeout=patience)
        finally:
            await end(self._tasks)  # also when the waiting itself was cut off
        for fault in self._faults:
            raise fault


_current: ContextVar[Visit | None] = ContextVar("visit", default=None)


def current() -> Visit | None:
    """The invocation that runs now."""
    return _current.get()


@asynccontextmanager
async def visit(seconds: float, *, within_seconds: float | None = None) -> AsyncIterator[Visit]:
    """What is marked inside is drained for up to *seconds* before the block ends, also when it ends with an error.

    *within_seconds*: after which nothing is waited for any more, neither the block (TimeoutError) nor its drains.
    """
    made = Visit(seconds, within_seconds)
    token = _current.set(made)
    try:
        async with asyncio.timeout(within_seconds):
            yield made
    finally:
        _current.reset(token)
        await made.done()
