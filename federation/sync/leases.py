"""Which shards this process works on."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from federation.errors import LeaseLost, RetryLater
from federation.ports import Clock, State
from federation.progress import Lease
from federation.telemetry import logger

_T = TypeVar("_T")
_log = logger("fedplane.leases")
_WORKERS = "worker/"
_COUNT_SECONDS = 3.0
"""How often a process looks who else is there, at least."""
_LATE_SECONDS = 1.0
_TAKE_SECONDS = 1.0
"""How often a process that has less than its share looks for free shards."""


class Leases:
    """Takes its share of the shards, renews them at least at a third of their life, gives them back at the end.

    Every worker says that it is there for as long as a lease lasts; the share is the shards divided by those who are. Who has
    more gives back what it is not working on, at once, and the rest as its keys are done: so processes that join, leave or
    hang change who works on what within seconds, and no key is taken from under a worker. A lease that could not be renewed
    within its life is dropped here before the server lets another take it. *busy* tells whether a shard's keys are at work
    here.
    """

    def __init__(
        self,
        state: State,
        *,
        owner: str,
        ttl_seconds: float,
        clock: Clock,
        on_new: Callable[[int], None],
        busy: Callable[[int], bool],
    ) -> None:
        self._state = state
        self._owner = owner
        self._ttl = ttl_seconds
        self._clock = clock
        self._on_new = on_new
        self._busy = busy
        self._renewed: dict[int, float] = {}
        self._guarded: dict[asyncio.Timeout, Lease] = {}
        self._share = state.shards
        self.held: dict[int, Lease] = {}
        self.yielding: dict[int, float] = {}
        """Held shards of which no more may be claimed, since somebody else is to have them, and since when."""
        self.leaving = False
        """Keep what is held, for the work under way, and take no more."""

    async def keep(self) -> None:
        """Run until cancelled."""
        while True:
            try:
                await self._round()
            except RetryLater as error:
                _log.warning("leases cannot be renewed", error=str(error), shards_held=len(self.held))
            self._drop_expired()
            short = not self.leaving and len(self.held) < self._share
            await self._rest(min(self._ttl / 3, _TAKE_SECONDS if short else _COUNT_SECONDS))

    async def _rest(self, seconds: float) -> None:
        """Sleep; that it took much longer says why leases are lost: something held up the event loop, or all of the machine."""
        begun = self._clock.monotonic_seconds()
        await self._clock.sleep(seconds)
        late = self._clock.monotonic_seconds() - begun - seconds
        if late >= _LATE_SECONDS:
            _log.warning("this process was held up: leases are looked after late", late_seconds=round(late, 1))

    async def _round(self) -> None:
        renewals = await self._each([self._renew(lease) for lease in self.held.values()])
        if not self.leaving:
            await self._count()
        self._choose()
        await self.give_back()
        if not self.leaving:
            await self._take()
        for error in renewals:
            raise error

    async def _renew(self, lease: Lease) -> None:
        now = self._clock.monotonic_seconds()
        if await self._state.renew(lease, ttl_seconds=self._ttl):
            if self.held.get(lease.shard) == lease:  # else it was lost meanwhile
                self._renewed[lease.shard] = now
        else:
            self.lost(lease)

    async def _each(self, steps: Sequence[Awaitable[_T]]) -> list[RetryLater]:
        """Do all of *steps*; those that could not be done keep no other from it (one node of a cluster may be away)."""
        results = await asyncio.gather(*steps, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, RetryLater):
                raise result
        return [result for result in results if isinstance(result, RetryLater)]

    async def _count(self) -> None:
        """What our share is. While the others cannot be counted it stays as it was."""
        await self._state.own(f"{_WORKERS}{self._owner}", owner=self._owner, ttl_seconds=self._ttl)
        workers = len(await self._state.owners(_WORKERS))
        self._share = -(-self._state.shards // max(1, workers))

    def _choose(self) -> None:
        """What goes: idle shards first; one whose key takes longer than a lease lasts is worked on again, not kept from all."""
        now = self._clock.monotonic_seconds()
        surplus = len(self.held) if self.leaving else max(0, len(self.held) - self._share)
        tired = {shard for shard, since in self.yielding.items() if now - since > self._ttl and not self.leaving}
        idle_first = sorted(self.held.keys() - tired, key=lambda shard: (self._busy(shard), shard not in self.yielding, shard))
        self.yielding = {shard: self.yielding.get(shard, now) for shard in idle_first[:surplus]}

    async def give_back(self) -> None:
        """Release the shards that are to go and that nothing is at work on. Raises RetryLater."""
        for shard in list(self.yielding):
            lease = self.held.get(shard)  # looked up anew each time: while one is released another may be lost
            if lease is not None and not self._busy(shard):
                del self.held[shard]
                self._renewed.pop(shard, None)
                self.yielding.pop(shard, None)
                await self._state.release(lease)

    async def _take(self) -> None:
        """Take free shards up to our share, beginning at a place of our own, so that joiners do not all try the same ones."""
        start = zlib.crc32(self._owner.encode()) % self._state.shards
        order = [(start + step) % self._state.shards for step in range(self._state.shards)]
        free = [shard for shard in order if shard not in self.held]
        while free and len(self.held) < self._share:
            some, free = free[: self._share - len(self.held)], free[self._share - len(self.held) :]
            for error in await self._each([self._acquire(shard) for shard in some]):
                _log.debug("shard cannot be taken", error=str(error))

    async def _acquire(self, shard: int) -> None:
        now = self._clock.monotonic_seconds()
        lease = await self._state.acquire(shard, owner=self._owner, ttl_seconds=self._ttl)
        if lease is not None:
            self.held[shard] = lease
            self._renewed[shard] = now
            self._on_new(shard)

    async def borrow(self, shard: int) -> Lease | None:
        """Take one shard beside any share; None when it is taken, also by us. Raises RetryLater."""
        if shard in self.held:
            return None
        await self._acquire(shard)
        return self.held.get(shard)

    async def keep_one(self, lease: Lease) -> None:
        """Renew what was borrowed until it is lost or brought back."""
        while self.held.get(lease.shard) == lease:
            await self._clock.sleep(self._ttl / 3)
            for error in await self._each([self._renew(lease)] if self.held.get(lease.shard) == lease else []):
                _log.warning("lease cannot be renewed", error=str(error), shard=lease.shard)
            self._drop_expired()

    async def bring_back(self, lease: Lease) -> None:
        """Give back what was borrowed. Raises RetryLater."""
        if self.held.get(lease.shard) == lease:
            del self.held[lease.shard]
            self._renewed.pop(lease.shard, None)
            await self._state.release(lease)

    def _drop_expired(self) -> None:
        now = self._clock.monotonic_seconds()
        expired = [one for shard, one in self.held.items() if now - self._renewed.get(shard, now) >= self._ttl]
        for lease in expired:
            self._forget(lease)
        if expired:
            _log.warning("leases lost", shards=len(expired), why="they could not be renewed in time")

    def lost(self, lease: Lease) -> None:
        """Somebody else owns it now, or may."""
        if self.held.get(lease.shard) == lease:
            self._forget(lease)
            _log.warning("lease lost", shard=lease.shard, fence=lease.fence)

    def _forget(self, lease: Lease) -> None:
        if self.held.get(lease.shard) == lease:
            del self.held[lease.shard]
            self._renewed.pop(lease.shard, None)
            for limit, guarded in self._guarded.items():
                if guarded == lease:
                    limit.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def while_held(self, lease: Lease) -> AsyncIterator[None]:
        """End what is done inside with LeaseLost as soon as *lease* is lost.

        No server knows our fencing number: a request that is still on its way then could take effect after the next worker's.
        """
        self.require(lease)
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._guarded[limit] = lease
                try:
                    yield
                finally:
                    del self._guarded[limit]
        except TimeoutError:
            if limit.expired():
                raise LeaseLost(f"shard {lease.shard} was lost while its key was at work", reason="lease_lost") from None
            raise

    def require(self, lease: Lease) -> None:
        """Raise LeaseLost when *lease* is lost or may have expired: a paused process finds out here before it writes."""
        current = self.held.get(lease.shard) == lease
        if not current or self._clock.monotonic_seconds() - self._renewed[lease.shard] >= self._ttl:
            raise LeaseLost(f"shard {lease.shard} may belong to another worker", reason="lease_lost")

    async def leave(self) -> None:
        """Take no more, and let the others have what nothing is at work on. Raises RetryLater."""
        self.leaving = True
        await self._state.disown(f"{_WORKERS}{self._owner}", owner=self._owner)
        self._choose()
        await self.give_back()

    async def release_all(self) -> None:
        """Give all shards back. Raises RetryLater."""
        errors = await self._each([self._state.release(lease) for lease in self.held.values()])
        self.held.clear()
        self._renewed.clear()
        for error in errors:
            raise error
