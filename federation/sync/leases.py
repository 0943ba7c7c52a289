"""Which shards this process works on."""

from __future__ import annotations

from collections.abc import Callable

from federation.errors import LeaseLost, RetryLater
from federation.ports import Clock, State
from federation.progress import Lease
from federation.telemetry import logger

_log = logger("fedplane.leases")


class Leases:
    """Takes free shards, renews its own at a third of their life, gives them back at the end.

    A lease that could not be renewed within its life is dropped here before the server lets another take it.
    """

    def __init__(self, state: State, *, owner: str, ttl_seconds: float, clock: Clock, on_new: Callable[[int], None]) -> None:
        self._state = state
        self._owner = owner
        self._ttl = ttl_seconds
        self._clock = clock
        self._on_new = on_new
        self._renewed: dict[int, float] = {}
        self.held: dict[int, Lease] = {}
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
            await self._clock.sleep(self._ttl / 3)

    async def _round(self) -> None:
        for shard in range(self._state.shards):
            now = self._clock.monotonic_seconds()
            lease = self.held.get(shard)
            if lease is None and self.leaving:
                continue
            if lease is None:
                lease = await self._state.acquire(shard, owner=self._owner, ttl_seconds=self._ttl)
                if lease is None:
                    continue
                self.held[shard] = lease
                self._renewed[shard] = now
                self._on_new(shard)
            elif await self._state.renew(lease, ttl_seconds=self._ttl):
                self._renewed[shard] = now
            else:
                self.lost(lease)

    def _drop_expired(self) -> None:
        now = self._clock.monotonic_seconds()
        for shard, since in list(self._renewed.items()):
            if now - since >= self._ttl and shard in self.held:
                self.lost(self.held[shard])

    def lost(self, lease: Lease) -> None:
        """Somebody else owns it now, or may."""
        if self.held.get(lease.shard) == lease:
            del self.held[lease.shard]
            self._renewed.pop(lease.shard, None)
            _log.warning("lease lost", shard=lease.shard, fence=lease.fence)

    def require(self, lease: Lease) -> None:
        """Raise LeaseLost when *lease* is lost or may have expired: a paused process finds out here before it writes."""
        current = self.held.get(lease.shard) == lease
        if not current or self._clock.monotonic_seconds() - self._renewed[lease.shard] >= self._ttl:
            raise LeaseLost(f"shard {lease.shard} may belong to another worker", reason="lease_lost")

    async def release_all(self) -> None:
        """Give all shards back."""
        for lease in list(self.held.values()):
            await self._state.release(lease)
        self.held.clear()
        self._renewed.clear()
