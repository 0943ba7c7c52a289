"""Shares of something limited, handed out fairly: bytes in memory, calls under way to one endpoint (design 8)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

flow: ContextVar[str] = ContextVar("flow", default="")
"""Whose work this task does, for fairness: the pair's name, and apart from it the pair's large transfers; set by the worker."""


class FairPool:
    """Hands out units in order of asking within a flow, and in turn among the flows that wait.

    A request above the total gets the total, so nothing waits for ever. One that must wait for free units makes all wait, so that
    small requests cannot starve it. Requests of *bulk* flows hold at most *bulk_share* of the total together: what they ask
    beyond waits for their own kind alone, and never keeps others waiting.
    """

    def __init__(self, total: int, *, bulk_share: float = 1.0) -> None:
        self.total = total
        self.free = total
        self._bulk_share = bulk_share
        self._bulk_held = 0
        self._flows: dict[str, deque[_Waiter]] = {}

    @property
    def bulk_total(self) -> int:
        """What bulk flows may hold together."""
        return max(1, int(self.total * self._bulk_share))

    def resize(self, total: int) -> None:
        """Change the total; what is held beyond a smaller one is given back by its holders in time."""
        self.free += total - self.total
        self.total = total
        self._grant()

    async def room(self, size: int, *, of: str = "", bulk: bool = False) -> Room:
        """Wait for *size* units in flow *of*; the caller closes what it gets."""
        size = min(size, self.bulk_total if bulk else self.total)
        if not any(self._flows.values()) and self._fits(size, bulk=bulk):
            self._hold(size, bulk=bulk)
            return Room(self, size, bulk=bulk)
        waiter = _Waiter(size, asyncio.get_running_loop().create_future(), bulk)
        queue = self._flows.setdefault(of, deque())
        queue.append(waiter)
        self._grant()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self.give_back(size, bulk=bulk)  # granted in the same tick as the cancellation
            else:
                if waiter in queue:
                    queue.remove(waiter)
                self._grant()
            raise
        return Room(self, size, bulk=bulk)

    @asynccontextmanager
    async def take(self, size: int, *, of: str = "", bulk: bool = False) -> AsyncIterator[None]:
        """Hold *size* units for the length of the block."""
        room = await self.room(size, of=of, bulk=bulk)
        try:
            yield
        finally:
            room.close()

    def more(self, size: int, *, bulk: bool) -> bool:
        """Hold *size* units beside some that are held, if they are free: who holds some must never wait for more.

        Also before those who wait: each room grows once, and none is given out meanwhile.
        """
        if size > self.free or (bulk and self._bulk_held + size > self.bulk_total):
            return False
        self._hold(size, bulk=bulk)
        return True

    def give_back(self, size: int, *, bulk: bool) -> None:
        """For ``Room``."""
        self.free += size
        self._bulk_held -= size if bulk else 0
        self._grant()

    def _fits(self, size: int, *, bulk: bool) -> bool:
        """Whether a request of *size* can be granted now."""
        return (not bulk or self._bulk_held + size <= self.bulk_total) and (size <= self.free or self.free >= self.total)

    def _hold(self, size: int, *, bulk: bool) -> None:
        self.free -= size
        self._bulk_held += size if bulk else 0

    def _grant(self) -> None:
        """Serve the flows in turn; one that was served goes to the end."""
        held_up = 0
        while self._flows and held_up < len(self._flows):
            name = next(iter(self._flows))
            queue = self._flows.pop(name)
            if not queue:
                continue
            self._flows[name] = queue
            waiter = queue[0]
            if waiter.turn.cancelled():
                queue.popleft()
                continue
            if waiter.bulk and self._bulk_held + waiter.size > self.bulk_total:
                held_up += 1
                continue
            if waiter.size > self.free and self.free < self.total:
                self._flows = {name: self._flows.pop(name), **self._flows}  # it stays the next
                return
            queue.popleft()
            held_up = 0
            self._hold(waiter.size, bulk=waiter.bulk)
            waiter.turn.set_result(None)


class _Waiter:
    __slots__ = ("bulk", "size", "turn")

    def __init__(self, size: int, turn: asyncio.Future[None], bulk: bool) -> None:
        self.size = size
        self.turn = turn
        self.bulk = bulk


class Room:
    """Units held until ``close``."""

    __slots__ = ("_bulk", "_pool", "size")

    def __init__(self, pool: FairPool, size: int, *, bulk: bool) -> None:
        self._pool = pool
        self._bulk = bulk
        self.size = size

    def shrink(self, size: int) -> None:
        """Give back what is held beyond *size*."""
        if size < self.size:
            spare, self.size = self.size - size, size
            self._pool.give_back(spare, bulk=self._bulk)

    def fit(self, size: int) -> bool:
        """Hold *size*, less or more than now (at most the total), if that needs no waiting."""
        size = min(size, self._pool.total)
        if size > self.size:
            if not self._pool.more(size - self.size, bulk=self._bulk):
                return False
            self.size = size
        self.shrink(size)
        return True

    def close(self) -> None:
        """Give everything back. Idempotent."""
        self.shrink(0)


BULK_SHARE = 0.75
"""Of the memory, what parts of large objects may hold: the rest is always there for small ones."""


class ByteBudget(FairPool):
    """The bytes of content that one process may hold in memory."""

    def __init__(self, total_bytes: int) -> None:
        super().__init__(total_bytes, bulk_share=BULK_SHARE)
