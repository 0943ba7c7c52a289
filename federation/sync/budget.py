"""One byte budget for everything in flight in this process (design 8)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """Hands out bytes in order of asking. A request above the total gets the total, so nothing waits for ever."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.free_bytes = total_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def take(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold *size_bytes* for the length of the block."""
        size = min(size_bytes, self.total_bytes)
        await self._acquire(size)
        try:
            yield
        finally:
            self._release(size)

    async def _acquire(self, size: int) -> None:
        if not self._waiting and size <= self.free_bytes:
            self.free_bytes -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(size)  # granted in the same tick as the cancellation
            else:
                self._waiting.remove((size, turn))
                self._grant()
            raise

    def _release(self, size: int) -> None:
        self.free_bytes += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free_bytes:
            size, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.free_bytes -= size
                turn.set_result(None)
