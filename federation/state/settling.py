"""Settles of many keys in one round trip: those that come while one is under way go together with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from federation.errors import FederationError
from federation.progress import Lease

AT_ONCE = 500
"""Keys in one round trip at most: Redis does nothing else meanwhile."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One key that is to be settled."""

    lease: Lease
    key: str
    generation: int
    record: bytes


Replies = Sequence[Sequence[bool] | FederationError]
Send = Callable[[Sequence[Sequence[Ended]]], Awaitable[Replies]]
"""Runs the settles of some leases: for each lease what became of its keys, or why it was refused."""


class Settling:
    """Gathers settles. Each caller learns of its own only: a lease that was lost is no matter of the others."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[tuple[Ended, asyncio.Future[bool]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def settle(self, ended: Ended) -> bool:
        """Whether the key is clean. Raises LeaseLost, RetryLater; cancelled, it may have been settled or not."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((ended, done))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all())
        return await done

    async def _send_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            groups: dict[Lease, list[tuple[Ended, asyncio.Future[bool]]]] = {}
            for ended, done in batch:
                groups.setdefault(ended.lease, []).append((ended, done))
            try:
                replies = await self._send([[ended for ended, _ in group] for group in groups.values()])
            except Exception as error:  # noqa: BLE001 - every one of the waiting raises it
                _tell([done for _, done in batch], error)
                continue
            for group, reply in zip(groups.values(), replies, strict=True):
                waiting = [done for _, done in group]
                if isinstance(reply, FederationError):
                    _tell(waiting, reply)
                    continue
                for done, clean in zip(waiting, reply, strict=True):
                    if not done.done():
                        done.set_result(bool(clean))

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._sender is not None:
            await asyncio.gather(self._sender, return_exceptions=True)


def _tell(waiting: Sequence[asyncio.Future[bool]], error: Exception) -> None:
    for done in waiting:
        if not done.done():
            done.set_exception(error)
