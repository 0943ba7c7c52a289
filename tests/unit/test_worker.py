"""The worker around sync_key: leases, concurrency, endings, halts, drain. In-memory twins, real event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import pytest
import structlog

from federation.clock import SystemClock
from federation.errors import Park, RetryLater, UsageError
from federation.model import Change, Metadata, Side, Source, Stamp, StampOrigin
from federation.ports import WriteResult
from federation.progress import Claim, DeleteBudget, HaltRecord, Lease
from federation.rules.decision import Rules
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.context import PairContext
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import Gate
from federation.sync.transfer import Transfer, TransferLimits
from federation.sync.worker import Worker, WorkerLimits


class _Bench:
    """Stores, state and workers of one pair."""

    def __init__(self, shards: int = 4) -> None:
        self.clock = SystemClock()
        self.raw = {side: MemoryStore(side, clock=self.clock) for side in Side}
        self.state = MemoryState("pair", shards=shards, clock=self.clock)
        self.gates = {side: Gate(side, self.clock) for side in Side}
        self.ctx = PairContext(
            name="pair",
            stores={side: PacedStore(store, self.gates[side]) for side, store in self.raw.items()},
            state=self.state,
            clock=self.clock,
            transfer=Transfer(TransferLimits(1 << 20, 1 << 20, 2), ByteBudget(1 << 30)),
            rules=Rules(),
            delete_budget=DeleteBudget(count=1, share=0.0, window_seconds=600),
            quiet_us=0,
        )

    def worker(self, owner: str = "w", lease_seconds: float = 5.0, drain_seconds: float = 2.0) -> Worker:
        """A worker over the shared state."""
        return Worker(self.ctx, self.gates, WorkerLimits(8, lease_seconds, drain_seconds, 2), owner=owner)

    async def write(self, key: str, side: Side = Side.BLOB) -> None:
        """A user's write and its event."""
        result = await self.raw[side].put(key, key.encode(), Metadata(), stamp=None, expected_etag=None)
        at = Stamp(self.clock.now_us(), 1, StampOrigin.EVENT)
        await self.state.mark([Change(key, side, Source.EVENT_GRID, etag=result.etag, at=at)])


@asynccontextmanager
async def _running(worker: Worker) -> AsyncIterator[Worker]:
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_each_decision_is_one_line_that_says_all_of_it() -> None:
    """Which pair and key, from which side to the other and why, what it cost on either, how long it took, and its trace."""
    bench = _Bench()
    await bench.write("k")
    with structlog.testing.capture_logs() as lines:
        async with _running(bench.worker()):
            await _until(lambda: not bench.state._dirty)
    [line] = [line for line in lines if line["event"] == "decision"]
    told = {name: line[name] for name in ("pair", "key", "source", "action", "outcome", "heard_from")}
    expected = {"pair": "pair", "key": "k", "source": "blob", "action": "copy", "outcome": "settled", "heard_from": "event_grid"}
    assert told == expected
    assert line["requests"] == sum(line["requests_by_side"].values()) > 0
    assert line["reason"]
    assert line["seconds"] > 0
    assert line["apply_delay_seconds"] > 0
    assert len(line["trace_id"]) == 32


async def test_everything_marked_is_applied_and_leases_are_given_back() -> None:
    """Many keys over several shards arrive on the other side; after a stop another worker can take the shards at once."""
    bench = _Bench()
    for number in range(50):
        await bench.write(f"k{number}")
    async with _running(bench.worker()):
        await _until(lambda: len(bench.raw[Side.VAST].objects) == 50)
        await _until(lambda: not bench.state._dirty)

    assert await bench.state.acquire(0, owner="next", ttl_seconds=1) is not None


async def test_a_key_that_is_at_work_is_not_worked_on_twice_when_the_state_goes_back() -> None:
    """A failover forgets the claim, and hands the key out again while the first look at it is still under way."""
    bench = _Bench()
    looks, both, go_on = 0, 0, asyncio.Event()

    async def waits(name: str, key: str) -> None:
        nonlocal looks, both
        if (name, key) == ("open", "k"):
            looks += 1
            both = max(both, looks)
            await go_on.wait()
            looks -= 1

    await bench.write("k")
    bench.raw[Side.BLOB]._hook = waits
    with structlog.testing.capture_logs() as lines:
        async with _running(bench.worker()) as worker:
            await _until(lambda: looks == 1)
            dirty = bench.state._dirty["k"]
            dirty.claimed, dirty.due_us = 0, 0
            worker.wake(bench.state.shard_of("k"))
            await _until(lambda: any(line["event"] == "decision" and line["outcome"] == "deferred" for line in lines))
            go_on.set()
            await _until(lambda: not bench.state._dirty)
    assert both == 1
    assert bench.raw[Side.VAST].objects["k"].data == b"k"


async def test_two_workers_share_and_neither_does_the_others_work_twice() -> None:
    """Each key is written once although two workers run over the same state."""
    bench = _Bench(shards=8)
    async with _running(bench.worker("one")), _running(bench.worker("two")):
        for number in range(40):
            await bench.write(f"k{number}")
        await _until(lambda: len(bench.raw[Side.VAST].objects) == 40)

    puts = [key for call, key in bench.raw[Side.VAST].calls if call == "put"]
    assert len(puts) == len(set(puts)) == 40


async def test_a_parked_key_leaves_the_queue_with_its_reason() -> None:
    """Park ends in the parked list, and the rest goes on."""
    bench = _Bench()
    bench.raw[Side.BLOB].fail_next("open", Park("the blob is archived", reason="archived"))
    await bench.write("cold")
    async with _running(bench.worker()):
        await _until(lambda: bool(bench.state._parked))
        await bench.write("warm")
        await _until(lambda: "warm" in bench.raw[Side.VAST].objects)

    [parked] = await bench.state.parked()
    assert (parked.key, parked.reason) == ("cold", "archived")


async def test_a_throttled_side_gets_its_rest_and_then_everything_arrives() -> None:
    """After a 503 with Retry-After nothing is sent until it is over."""
    bench = _Bench()
    bench.raw[Side.VAST].fail_next("put", RetryLater("503", reason="throttled", after_seconds=0.3))
    await bench.write("k")
    async with _running(bench.worker()):
        await _until(lambda: bench.gates[Side.VAST].closed_for_seconds() > 0)
        assert bench.gates[Side.VAST].failing_since_us is not None
        await _until(lambda: "k" in bench.raw[Side.VAST].objects)

    assert bench.gates[Side.VAST].failing_since_us is None


async def test_a_state_that_refuses_us_ends_the_worker_with_its_advice() -> None:
    """Though several shards are claimed from at a time, what one raises comes out as it is, and the others are ended."""
    bench, ended = _Bench(shards=2), list[int]()

    async def refuse(lease: Lease, **_: object) -> list[Claim]:
        if lease.shard == 0:
            raise UsageError("Redis refuses the user: correct redis.url")
        try:
            return await asyncio.Future[list[Claim]]()
        finally:
            ended.append(lease.shard)

    with patch.object(bench.state, "claim", refuse), pytest.raises(UsageError, match="correct redis"):
        await bench.worker().run()
    assert len(ended) == len(set(ended)) > 0


async def test_a_shard_that_is_claimed_from_is_not_given_back() -> None:
    """What the claim hands out would be worked on by two; another worker gets the idle shards."""
    bench, asked, go = _Bench(shards=2), list[int](), asyncio.Event()
    claim = bench.state.claim

    async def slowly(lease: Lease, **options: Any) -> list[Claim]:  # noqa: ANN401
        asked.append(lease.shard)
        await go.wait()
        return await claim(lease, **options)

    one = bench.worker("one")
    with patch.object(bench.state, "claim", slowly):
        async with _running(one):
            await _until(lambda: len(asked) == 2)
            one._leases._share = 0
            one._leases._choose()
            await one._leases.give_back()
            assert one.shards_held == 2
            go.set()
            await _until(lambda: not one._claiming)
            await one._leases.give_back()
            assert one.shards_held == 0


async def test_a_halted_pair_does_nothing_until_lifted() -> None:
    """A named halt stops all work; lifting it lets the work go on."""
    bench = _Bench()
    await bench.state.halt(HaltRecord("side_emptied_vast", "", 0, self_lifting=False))
    await bench.write("k")
    async with _running(bench.worker()) as worker:
        await _until(lambda: worker.shards_held == 4)
        assert bench.raw[Side.VAST].calls == []
        await bench.state.lift("side_emptied_vast")
        await _until(lambda: "k" in bench.raw[Side.VAST].objects)


async def test_a_missing_container_halts_the_pair_by_name_and_loses_no_key() -> None:
    """A container that is gone is a halt, never an absence: no delete, and the key stays dirty."""
    bench = _Bench()
    bench.raw[Side.VAST].missing_container = True
    await bench.write("k")
    async with _running(bench.worker()):
        await _until(lambda: bool(bench.state._halts))

    assert [record.name for record in await bench.state.halts()] == ["container_missing"]
    assert await bench.state.dirty_keys(limit=5) == ["k"]


async def test_a_delete_past_the_budget_is_held_for_a_person_and_released_by_one() -> None:
    """Held deletes do nothing by themselves; a release carries them out."""
    bench = _Bench(shards=1)
    bench.ctx = PairContext(
        **{name: getattr(bench.ctx, name) for name in ("name", "stores", "state", "clock", "transfer", "rules", "quiet_us")},
        delete_budget=DeleteBudget(count=0, share=0.0, window_seconds=600),
    )
    await bench.write("k")
    async with _running(bench.worker()):
        await _until(lambda: "k" in bench.raw[Side.VAST].objects and not bench.state._dirty)
        del bench.raw[Side.BLOB].objects["k"]
        await bench.state.mark([Change("k", Side.BLOB, Source.EVENT_GRID, deleted=True)])
        await _until(lambda: bool(bench.state._held))
        assert "k" in bench.raw[Side.VAST].objects

        await bench.state.judge(["k"], verdict="released", now_us=0)
        await _until(lambda: "k" not in bench.raw[Side.VAST].objects)


async def test_a_rejected_delete_brings_the_object_back() -> None:
    """Rejecting restores from the side that still holds it."""
    bench = _Bench(shards=1)
    await bench.write("k")
    async with _running(bench.worker()):
        await _until(lambda: "k" in bench.raw[Side.VAST].objects and not bench.state._dirty)
        del bench.raw[Side.BLOB].objects["k"]
        for number in range(25):
            await bench.state.reserve_delete(str(number), bench.ctx.delete_budget, objects=0, now_us=bench.clock.now_us())
        await bench.state.mark([Change("k", Side.BLOB, Source.EVENT_GRID, deleted=True)])
        await _until(lambda: bool(bench.state._held))
        await bench.state.judge(["k"], verdict="rejected", now_us=0)
        await _until(lambda: "k" in bench.raw[Side.BLOB].objects)


async def test_a_stop_does_not_wait_for_a_copy_without_end() -> None:
    """After the drain's time what is under way is cut off: the key stays dirty, the shard is free, the next worker copies it."""
    bench = _Bench(shards=1)
    put, begun = bench.raw[Side.VAST].put, asyncio.Event()

    async def stuck(*_: object, **__: object) -> WriteResult:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    bench.raw[Side.VAST].put = stuck  # type: ignore[method-assign]
    async with asyncio.timeout(10):
        async with _running(bench.worker(lease_seconds=3_600, drain_seconds=0.05)):
            await bench.write("k")
            await begun.wait()
    assert await bench.state.dirty_keys(limit=9) == ["k"]
    bench.raw[Side.VAST].put = put  # type: ignore[method-assign]
    async with _running(bench.worker("next")):
        await _until(lambda: "k" in bench.raw[Side.VAST].objects)


async def test_a_stolen_lease_stops_the_work_without_harm() -> None:
    """A worker whose token is refused drops the shard and records nothing."""
    bench = _Bench(shards=1)
    async with _running(bench.worker(lease_seconds=30)) as worker:
        await _until(lambda: worker.shards_held == 1)
        bench.state._owners.clear()
        thief = await bench.state.acquire(0, owner="thief", ttl_seconds=60)
        await bench.write("k")
        worker.wake(0)
        await _until(lambda: worker.shards_held == 0)

    assert thief is not None
    assert "k" not in bench.raw[Side.VAST].objects
