"""Draining single shards, as invocations do: bounded, leaving nothing behind, telling what is left. In-memory twins."""

from __future__ import annotations

import asyncio

import pytest

from federation.clock import SystemClock
from federation.model import Change, Metadata, Side, Source
from federation.progress import DeleteBudget, HaltRecord
from federation.rules.decision import Rules
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from federation.sync import drain
from federation.sync.budget import ByteBudget
from federation.sync.context import PairContext
from federation.sync.drain import Rest, ShardWorker
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import Gate
from federation.sync.transfer import Transfer, TransferLimits
from federation.sync.worker import WorkerLimits


class _Bench:
    """One pair of one shard, and processes that drain it."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.raw = {side: MemoryStore(side, clock=clock) for side in Side}
        self.state = MemoryState("pair", shards=1, clock=clock)
        self.gates = {side: Gate(side, clock) for side in Side}
        self.ctx = PairContext(
            name="pair",
            stores={side: PacedStore(store, self.gates[side]) for side, store in self.raw.items()},
            state=self.state,
            clock=clock,
            transfer=Transfer(TransferLimits(1 << 20, 1 << 20, 2), ByteBudget(1 << 30)),
            rules=Rules(),
            delete_budget=DeleteBudget(count=1, share=0.0, window_seconds=600),
            quiet_us=0,
        )
        self.opened = asyncio.Event()
        self.may_open = asyncio.Event()
        self.may_open.set()
        self._open = self.raw[Side.BLOB].open
        self.raw[Side.BLOB].open = self._gated  # type: ignore[method-assign, assignment]

    async def _gated(self, *args: object, **more: object) -> object:
        self.opened.set()
        await self.may_open.wait()
        return await self._open(*args, **more)  # type: ignore[arg-type]

    def process(self, lease_seconds: float = 5.0) -> ShardWorker:
        """What one process of the functions app works with."""
        return ShardWorker(self.ctx, self.gates, WorkerLimits(8, lease_seconds, 2.0, 2), owner="f")

    async def write(self, key: str) -> None:
        """A user's write on Blob and its event."""
        result = await self.raw[Side.BLOB].put(key, key.encode(), Metadata(), stamp=None, expected_etag=None)
        await self.state.mark([Change(key, Side.BLOB, Source.EVENT_GRID, etag=result.etag)])

    @property
    def arrived(self) -> set[str]:
        """Keys on VAST."""
        return set(self.raw[Side.VAST].objects)


async def _drain(process: ShardWorker, seconds: float = 10.0, grace: float = 1.0) -> Rest:
    return await process.drain(0, seconds=seconds, grace_seconds=grace)


async def test_what_is_due_is_done_and_the_lease_is_given_back() -> None:
    """After a drain everything is applied, nothing is left, and another process may take the shard at once."""
    bench = _Bench()
    for number in range(40):
        await bench.write(f"k{number}")
    assert await _drain(bench.process()) == Rest(None)
    assert len(bench.arrived) == 40
    assert await bench.state.acquire(0, owner="other", ttl_seconds=1) is not None


async def test_a_taken_shard_is_told_as_busy() -> None:
    """The one that cannot have the shard hears that something is left there, so that it can see to it."""
    bench = _Bench()
    assert await bench.state.acquire(0, owner="other", ttl_seconds=60) is not None
    await bench.write("k")
    rest = await _drain(bench.process())
    assert rest.busy
    assert rest.due_us is not None
    assert bench.arrived == set()


async def test_who_marks_while_it_is_drained_is_served_by_that_drain() -> None:
    """A mark made while the last key is under way is found before the shard is given back; the marker need not stay."""
    bench = _Bench()
    process = bench.process()
    bench.may_open.clear()
    await bench.write("first")
    draining = asyncio.create_task(_drain(process))
    await bench.opened.wait()
    await bench.write("second")
    assert process.poke(0)
    assert await _drain(process) == Rest(None)  # the same process: the drain under way answers for it
    bench.may_open.set()
    assert await draining == Rest(None)
    assert bench.arrived == {"first", "second"}
    assert not process.poke(0)


async def test_a_mark_between_the_last_claim_and_the_release_is_found() -> None:
    """Who found the shard taken relies on the holder's look after it gave the lease back."""
    bench = _Bench()
    process, marked = bench.process(), False
    release = bench.state.release

    async def late(lease: object) -> None:
        nonlocal marked
        if not marked:
            marked = True
            await bench.write("late")  # the lease is still held: whoever marked this could not take the shard
        await release(lease)  # type: ignore[arg-type]

    bench.state.release = late  # type: ignore[method-assign]
    await bench.write("early")
    assert await _drain(process) == Rest(None)
    assert bench.arrived == {"early", "late"}


async def test_when_the_time_is_over_what_is_under_way_is_cut_off_and_told() -> None:
    """The key stays dirty, the shard is free, no task is left; the next drain brings it over."""
    bench = _Bench()
    bench.may_open.clear()
    await bench.write("k")
    process = bench.process()
    before = asyncio.all_tasks()
    rest = await _drain(process, seconds=0.05, grace=0.05)
    assert rest.due_us is not None
    assert not rest.busy
    assert process.in_flight == 0
    assert asyncio.all_tasks() == before
    bench.may_open.set()
    assert await _drain(bench.process()) == Rest(None)
    assert bench.arrived == {"k"}


async def test_a_cancelled_drain_leaves_no_task_and_no_lease() -> None:
    """A bound from outside (30 s of Event Grid) ends it in order too."""
    bench = _Bench()
    bench.may_open.clear()
    await bench.write("k")
    before = asyncio.all_tasks()
    draining = asyncio.create_task(_drain(bench.process()))
    await bench.opened.wait()
    draining.cancel()
    await asyncio.wait([draining])
    assert asyncio.all_tasks() == before
    assert await bench.state.acquire(0, owner="other", ttl_seconds=1) is not None
    assert await bench.state.waiting() != {}


async def test_a_halted_pair_is_left_alone() -> None:
    """Nothing is written, and the caller hears that coming back at once makes no sense."""
    bench = _Bench()
    await bench.state.halt(HaltRecord("listing_order", "", 0, self_lifting=False))
    await bench.write("k")
    rest = await _drain(bench.process())
    assert rest.halted
    assert rest.due_us is not None
    assert bench.arrived == set()


async def test_a_side_that_rests_is_left_alone() -> None:
    """As asked; the caller comes back later, the key stays as it was."""
    bench = _Bench()
    await bench.write("k")
    bench.gates[Side.VAST].close_until(SystemClock().monotonic_seconds() + 60)
    rest = await _drain(bench.process())
    assert (rest.resting, rest.halted) == (True, False)
    assert bench.arrived == set()


async def test_a_lease_lives_as_long_as_the_drain() -> None:
    """A key that takes longer than a lease lasts keeps its shard."""
    bench = _Bench()
    bench.may_open.clear()
    await bench.write("k")
    draining = asyncio.create_task(_drain(bench.process(lease_seconds=0.15)))
    await bench.opened.wait()
    renewed = asyncio.Event()
    renew = bench.state.renew
    times = 0

    async def counted(*args: object, **more: object) -> bool:
        nonlocal times
        times += 1
        if times == 5:
            renewed.set()
        return await renew(*args, **more)  # type: ignore[arg-type]

    bench.state.renew = counted  # type: ignore[method-assign]
    await renewed.wait()
    assert await bench.state.acquire(0, owner="other", ttl_seconds=1) is None
    bench.may_open.set()
    assert await draining == Rest(None)


async def test_a_drain_leaves_nothing_in_memory() -> None:
    """Each borrows another lease: a process that lives for weeks remembers none of them."""
    process = _Bench().process()
    for _ in range(3):
        await _drain(process)
    assert process._reclaimed == {}


async def test_what_comes_due_while_a_shard_is_tidied_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could work on it meanwhile; of an untouched shard nothing is told."""
    bench = _Bench()
    process = bench.process()
    assert not await process.tidy(0)

    async def marked(*_: object, **__: object) -> None:
        await bench.write("k")

    monkeypatch.setattr(drain, "sweep", marked)
    assert await process.tidy(0)
    assert await bench.state.acquire(0, owner="other", ttl_seconds=1) is not None
