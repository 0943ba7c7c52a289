"""A world of two in-memory sides and the real ``sync_key``, driven step by step."""

from __future__ import annotations

import dataclasses

from federation.model import Change, Metadata, Mode, Side, Source, Stamp, StampOrigin
from federation.progress import DeleteBudget, Lease
from federation.rules.decision import Rules
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.context import PairContext
from federation.sync.paced_store import PacedStore, Tally, tally
from federation.sync.pacing import Gate
from federation.sync.sync_key import Synced, sync_key
from federation.sync.transfer import Transfer, TransferLimits

SECOND = 1_000_000


class FakeClock:
    """Virtual time that moves only when told."""

    def __init__(self) -> None:
        self.us = 1_700_000_000 * SECOND

    def now_us(self) -> int:
        """Wall clock."""
        return self.us

    def monotonic_seconds(self) -> float:
        """The same."""
        return self.us / SECOND

    async def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.us += int(seconds * SECOND)


class World:
    """Two sides, a state and a worker's hands, one shard."""

    def __init__(self, mode: Mode = Mode.TWO_WAY, **rules: object) -> None:
        self.clock = FakeClock()
        self.raw = {side: MemoryStore(side, clock=self.clock) for side in Side}
        self.state = MemoryState("pair", shards=1, clock=self.clock)
        limits = TransferLimits(small_object_bytes=64, part_bytes=32, parallel_parts=2)
        self.ctx = PairContext(
            name="pair",
            stores={side: PacedStore(store, Gate(side, self.clock)) for side, store in self.raw.items()},
            state=self.state,
            clock=self.clock,
            transfer=Transfer(limits, ByteBudget(1 << 30)),
            rules=dataclasses.replace(Rules(mode=mode), **rules),  # type: ignore[arg-type]
            delete_budget=DeleteBudget(count=1000, share=1.0, window_seconds=600),
            quiet_us=5 * SECOND,
        )
        self.lease: Lease | None = None
        self.requests = 0

    async def write(self, side: Side, key: str, text: str, *, told: bool = True, metadata: Metadata | None = None) -> str:
        """A user writes; unless told=False the event is delivered (a mark, as sources make it)."""
        store = self.raw[side]
        try:
            expected = (await store.head(key)).version.etag
        except Exception:  # noqa: BLE001 - a user does not care why
            expected = None
        result = await store.put(key, text.encode(), metadata or Metadata(), stamp=None, expected_etag=expected)
        if told:
            await self.tell(side, key, etag=result.etag)
        return result.etag

    async def remove(self, side: Side, key: str, *, told: bool = True) -> None:
        """A user deletes."""
        await self.raw[side].delete(key, expected_etag=(await self.raw[side].head(key)).version.etag)
        if told:
            await self.tell(side, key, deleted=True)

    async def tell(self, side: Side, key: str, *, etag: str | None = None, deleted: bool = False) -> None:
        """Deliver an event."""
        at = Stamp(self.clock.us, 1, StampOrigin.EVENT)
        source = Source.EVENT_GRID if side is Side.BLOB else Source.VAST_EVENTS
        await self.state.mark([Change(key, side, source, etag=etag, deleted=deleted, at=at)])

    async def look(self, key: str) -> None:
        """What a scan does that found both sides worth a look."""
        await self.state.mark([Change(key, side, Source.RECONCILER) for side in Side])

    async def step(self) -> list[Synced]:
        """Work on everything due once, as the worker does; errors propagate."""
        if self.lease is None:
            self.lease = await self.state.acquire(0, owner="test", ttl_seconds=1e9)
        assert self.lease is not None
        done = []
        for claim in await self.state.claim(self.lease, limit=100, now_us=self.clock.us):
            cost = Tally()
            tally.set(cost)
            synced = await sync_key(self.ctx, self.lease, claim)
            await self.state.settle(self.lease, claim.hint.key, claim.hint.generation, synced.base)
            self.requests += cost.requests
            done.append(synced)
        return done

    async def text(self, side: Side, key: str) -> str | None:
        """Content now, None when absent."""
        from federation.errors import NotPresent  # noqa: PLC0415

        try:
            reader = await self.raw[side].open(key)
        except NotPresent:
            return None
        return (await reader.read()).decode()

    async def both(self, key: str) -> tuple[str | None, str | None]:
        """Content on Blob and on VAST."""
        return await self.text(Side.BLOB, key), await self.text(Side.VAST, key)

    async def crash(self) -> None:
        """The worker dies: what it had claimed comes back to the next holder of the shard."""
        assert self.lease is not None
        await self.state.release(self.lease)
        self.lease = None

    def forget(self) -> None:
        """The state is emptied."""
        self.state = MemoryState("pair", shards=1, clock=self.clock)
        self.ctx, self.lease = dataclasses.replace(self.ctx, state=self.state), None

    def later(self, seconds: float = 10) -> None:
        """Time passes."""
        self.clock.us += int(seconds * SECOND)
