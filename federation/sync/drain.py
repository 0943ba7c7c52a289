"""Working off single shards for a bounded time, for processes that live only as long as an invocation (docs/adr/0014).

Nothing goes on after ``drain`` returned: no task is left, the lease is given back, and what remains is told to the caller, who
has to see to it that somebody comes back. A process that is killed or frozen under way leaves a lease that ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from federation.errors import LeaseLost, RetryLater
from federation.model import Side
from federation.progress import Lease
from federation.sync.context import PairContext
from federation.sync.journal import sweep
from federation.sync.pacing import Gate
from federation.sync.stopping import end
from federation.sync.worker import Worker, WorkerLimits

_LOOK_SECONDS = 0.25
"""While keys are at work: how often other processes' marks are looked for."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What a drain left in its shard."""

    due_us: int | None
    """When the first key is due, microseconds since 1970 UTC, 0 for one that was claimed; None: nothing is left."""
    busy: bool = False
    """Another process holds the shard."""
    halted: bool = False
    """The pair is halted."""
    resting: bool = False
    """A side asked for rest, or does not answer."""


class ShardWorker(Worker):
    """A worker that takes no shards by itself: ``drain`` borrows one. It is never ``run``."""

    def __init__(self, ctx: PairContext, gates: dict[Side, Gate], limits: WorkerLimits, *, owner: str) -> None:
        super().__init__(ctx, gates, limits, owner=owner)
        self._draining: dict[int, asyncio.Event] = {}

    def poke(self, shard: int) -> bool:
        """Whether this process is draining *shard*: it then finds what was marked before, or tells of it as rest."""
        event = self._draining.get(shard)
        if event is not None:
            event.set()
        return event is not None

    @property
    def draining(self) -> int:
        """Shards that this process drains now."""
        return len(self._draining)

    async def drain(self, shard: int, *, seconds: float, grace_seconds: float) -> Rest:
        """Work on what is due in *shard* until nothing is or *seconds* have passed; then *grace_seconds* for what is under way.

        What is still under way after that is cut off; it stays dirty, and large transfers are gone on with later. Raises
        RetryLater when the state cannot be reached: what remains is then not known.
        """
        until = self._ctx.clock.monotonic_seconds() + seconds
        while True:
            if shard in self._draining:
                return Rest(None)  # by this process: who drains it looks again when it ends
            self._draining[shard] = asyncio.Event()
            try:
                lease = await self._leases.borrow(shard)
                if lease is not None:
                    await self._drain(lease, until, grace_seconds)
            finally:
                del self._draining[shard]
            # Only now: who marked before and found the shard taken, by us or by our lease, relies on this look.
            due_us = (await self._ctx.state.waiting([shard])).get(shard)
            if lease is None or due_us is None or due_us > self._ctx.clock.now_us():
                return Rest(due_us, busy=lease is None)
            halted, resting = await self._halted(), self._resting()
            if halted or resting or self._ctx.clock.monotonic_seconds() >= until:
                return Rest(due_us, halted=halted, resting=resting)

    async def tidy(self, shard: int) -> bool:
        """Clear away what is left of large transfers that nobody goes on with, if the shard is free.

        Whether something has come due meanwhile, which nobody could work on. Raises RetryLater.
        """
        lease = await self._leases.borrow(shard)
        if lease is None:
            return False
        try:
            with contextlib.suppress(LeaseLost):
                await sweep(self._ctx.state, self._ctx.stores, lease, at_work=[], now_us=self._ctx.clock.now_us())
        finally:
            await self._leases.bring_back(lease)
        due_us = (await self._ctx.state.waiting([shard])).get(shard)
        return due_us is not None and due_us <= self._ctx.clock.now_us()

    def _resting(self) -> bool:
        return any(gate.closed_for_seconds() > 0 for gate in self._gates.values())

    async def _drain(self, lease: Lease, until: float, grace_seconds: float) -> None:
        renewing = asyncio.create_task(self._leases.keep_one(lease))
        try:
            while self._leases.held.get(lease.shard) == lease and self._ctx.clock.monotonic_seconds() < until:
                if self._resting() or await self._halted() or not await self._step(lease):
                    break
            await self._finish(lease.shard, grace_seconds)
        finally:
            await end([*self._at_work(lease.shard), renewing])
            self._reclaimed.pop(lease, None)  # the next one is another lease
            with contextlib.suppress(RetryLater):  # then it ends by itself
                await self._leases.bring_back(lease)

    async def _step(self, lease: Lease) -> bool:
        """Claim, and wait until there may be more; False when nothing is due and nothing is under way."""
        shard = lease.shard
        rung = self._draining[shard]
        rung.clear()
        self._ready.discard(shard)
        await self._claim_from(lease)
        if shard in self._ready:  # the claim was full
            return True
        tasks = self._at_work(shard)
        if tasks:
            ringing = asyncio.create_task(rung.wait())
            try:
                await asyncio.wait([*tasks, ringing], timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end([ringing])
        return bool(tasks) or rung.is_set()

    async def _finish(self, shard: int, grace_seconds: float) -> None:
        tasks = self._at_work(shard)
        if tasks:
            await asyncio.wait(tasks, timeout=grace_seconds)

    def _at_work(self, shard: int) -> list[asyncio.Task[None]]:
        return [task for task, key in self._work.items() if self._ctx.state.shard_of(key) == shard]
