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


_Waiting = tuple[Ended, asyncio.Future[bool]]
Replies = Sequence[Sequence[bool] | FederationError]
Send = Callable[[Sequence[Sequence[Ended]]], Awaitable[Replies]]
"""Runs the settles of some leases: for each lease what became of its keys, or why it was refused."""


class Settling:
    """Gathers settles. Each caller learns of its own only: a lease that was lost is no matter of the others."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[_Waiting] = []
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
            await asyncio.sleep(0)  # whoever is ready now comes along
            batch, groups = self._next()
            try:
                replies = await self._send([[ended for ended, _ in group] for group in groups.values()])
                for group, reply in zip(groups.values(), replies, strict=True):
                    _tell_group([done for _, done in group], reply)
            except Exception as error:  # noqa: BLE001 - every one of the waiting raises it
                _tell([done for _, done in batch], error)

    def _next(self) -> tuple[list[_Waiting], dict[Lease, list[_Waiting]]]:
        """What goes next, no key of a lease twice, whole and by lease."""
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        groups: dict[Lease, list[_Waiting]] = {}
        taken: set[tuple[Lease, str]] = set()
        for one in self._waiting:
            place = one[0].lease, one[0].key
            if place in taken or len(batch) >= AT_ONCE:
                later.append(one)
                continue
            taken.add(place)
            batch.append(one)
            groups.setdefault(one[0].lease, []).append(one)
        self._waiting = later
        return batch, groups

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._sender is not None:
            await asyncio.gather(self._sender, return_exceptions=True)


def _tell_group(waiting: Sequence[asyncio.Future[bool]], reply: Sequence[bool] | FederationError) -> None:
    if isinstance(reply, FederationError):
        _tell(waiting, reply)
        return
    for done, clean in zip(waiting, reply, strict=True):
        if not done.done():
            done.set_result(bool(clean))


def _tell(waiting: Sequence[asyncio.Future[bool]], error: Exception) -> None:
    for done in waiting:
        if not done.done():
            done.set_exception(error)
