"""Nobody starves: small fresh changes beside a backlog, large objects and a busy pair. Real workers, virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock, patch

import pytest

from federation.bandwidth import parse_timetable
from federation.model import Change, Metadata, Side, Source, Stamp, StampOrigin
from federation.progress import Claim, DeleteBudget, MarkResult, TransferRecord
from federation.rules.decision import Rules
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.bulk import BulkLane
from federation.sync.context import PairContext
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import SMALL_BODY_BYTES, Gate, PaceLimits
from federation.sync.transfer import Content, Transfer, TransferLimits
from federation.sync.worker import Worker, WorkerLimits
from federation.wiring import WakingSink
from tests.simulation.loop import SimLoop

LATENCY_SECONDS = 0.02
MIB = 1024**2
LIMITS = TransferLimits(64, 32, 2)


class _LoopClock:
    """The loop's virtual time."""

    def now_us(self) -> int:
        return 1_700_000_000_000_000 + int(asyncio.get_running_loop().time() * 1_000_000)

    def monotonic_seconds(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Shared:
    """What the pairs of one process share."""

    def __init__(self, *, memory_bytes: int = 1 << 20, calls: int = 64) -> None:
        self.clock = _LoopClock()
        self.budget = ByteBudget(memory_bytes)
        self.gates = {side: Gate(side, self.clock, PaceLimits(max_concurrency=calls)) for side in Side}


class _Pair:
    """One pair over stores that answer after a while."""

    def __init__(self, shared: _Shared, name: str, *, shards: int = 4, limits: TransferLimits = LIMITS) -> None:
        self.clock = shared.clock
        self.put_seconds = LATENCY_SECONDS
        self.raw = {side: MemoryStore(side, clock=self.clock, hook=self._slow) for side in Side}
        for store in self.raw.values():
            store.capabilities = replace(store.capabilities, min_part_bytes=1)
        self.state = MemoryState(name, shards=shards, clock=self.clock)
        self.written: dict[str, float] = {}
        lane = BulkLane(self.clock, running=2, waiting=14)  # more than the worker has places
        ctx = PairContext(
            name=name,
            stores={side: PacedStore(store, shared.gates[side]) for side, store in self.raw.items()},
            state=self.state,
            clock=self.clock,
            transfer=Transfer(limits, shared.budget, lane),
            rules=Rules(),
            delete_budget=DeleteBudget(count=1000, share=1.0, window_seconds=600),
            quiet_us=0,
        )
        self.worker = Worker(ctx, shared.gates, WorkerLimits(8, 10.0, 2.0, 12), owner="w")

    async def _slow(self, call: str, key: str) -> None:
        fresh = key.startswith("fresh")
        await asyncio.sleep(0.5 if call == "put_part" else self.put_seconds if call == "put" and not fresh else LATENCY_SECONDS)

    async def write(self, key: str, size_bytes: int = 8, *, source: Source = Source.EVENT_GRID) -> None:
        """A user's write on Blob, and who tells of it."""
        store, hook = self.raw[Side.BLOB], self.raw[Side.BLOB]._hook
        store._hook = None
        result = await store.put(key, b"x" * size_bytes, Metadata(), stamp=None, expected_etag=None)
        store._hook = hook
        self.written[key] = self.clock.monotonic_seconds()
        at = Stamp(self.clock.now_us(), 1, StampOrigin.EVENT)
        change = Change(key, Side.BLOB, source, etag=result.etag, at=at)
        await self.state.mark([change])
        self.worker.wake_changes([change])

    async def delay(self, key: str) -> float:
        """Seconds until *key* is on VAST."""
        while key not in self.raw[Side.VAST].objects:
            await asyncio.sleep(0.01)
        return self.clock.monotonic_seconds() - self.written[key]


@asynccontextmanager
async def _running(*pairs: _Pair) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(pair.worker.run()) for pair in pairs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _virtually(main: Coroutine[Any, Any, None]) -> None:
    SimLoop(1).run(main)


async def _fresh_delays(pair: _Pair, count: int) -> list[float]:
    delays = []
    for number in range(count):
        await pair.write(f"fresh{number}")
        delays.append(await pair.delay(f"fresh{number}"))
    return delays


def _left(pair: _Pair, count: int) -> int:
    """Of so many old keys those that are still to be copied."""
    return sum(f"old{number:04d}" not in pair.raw[Side.VAST].objects for number in range(count))


def test_a_fresh_change_does_not_wait_for_the_backlog() -> None:
    """While 2,000 older keys of the pair are being worked through, each fresh change arrives within a fraction of that."""

    async def main() -> None:
        pair = _Pair(_Shared(), "one")
        for number in range(2_000):
            await pair.write(f"old{number:04d}")
        async with _running(pair):
            delays = await _fresh_delays(pair, 20)
            left = _left(pair, 2_000)
            await pair.delay("old0000")
            for number in range(2_000):
                await pair.delay(f"old{number:04d}")
            whole = pair.clock.monotonic_seconds()
        assert left > 500, "the backlog outlasts the fresh changes"
        assert max(delays) < whole / 5

    _virtually(main())


def test_a_fresh_change_passes_announced_ones_that_are_slow() -> None:
    """Each of 1,000 changes announced before keeps a place for a second: a fresh one waits for a few of them."""

    async def main() -> None:
        pair = _Pair(_Shared(), "one", shards=16)
        pair.put_seconds = 1.0
        for number in range(1_000):
            await pair.write(f"old{number:04d}")
        async with _running(pair):
            await asyncio.sleep(5)
            delays = await _fresh_delays(pair, 5)
            left = _left(pair, 1_000)
        assert left > 200, "the backlog outlasts the fresh changes"
        assert max(delays) < 14

    _virtually(main())


def test_a_slow_state_is_asked_for_several_shards_at_a_time() -> None:
    """Each claim takes half a second and every shard has a backlog: a fresh change does not wait for one claim after another."""

    async def main() -> None:
        pair = _Pair(_Shared(), "one", shards=16)
        claim = pair.state.claim

        async def slowly(*args: Any, **options: Any) -> list[Claim]:  # noqa: ANN401
            await asyncio.sleep(0.5)
            return await claim(*args, **options)

        for number in range(2_000):
            await pair.write(f"old{number:04d}", source=Source.RECONCILER)
        with patch.object(pair.state, "claim", slowly):
            async with _running(pair):
                await asyncio.sleep(3)
                delays = await _fresh_delays(pair, 10)
                left = _left(pair, 2_000)
        assert left > 500, "the backlog outlasts the fresh changes"
        assert max(delays) < 7

    _virtually(main())


def test_a_fresh_change_passes_a_scan_that_goes_on_finding() -> None:
    """A scan marks keys faster than they can be worked on: changes announced meanwhile pass those it finds after them, too."""

    async def main() -> None:
        pair = _Pair(_Shared(), "one")

        async def scan() -> None:
            for number in range(4_000):
                await pair.write(f"old{number:04d}", source=Source.RECONCILER)
                if number % 10 == 0:
                    await asyncio.sleep(0.01)

        async with _running(pair):
            scanning = asyncio.create_task(scan())
            await asyncio.sleep(0.1)
            delays = await _fresh_delays(pair, 20)
            assert not scanning.done(), "the scan outlasts the fresh changes"
            await scanning
        assert max(delays) < 0.5

    _virtually(main())


def test_large_objects_do_not_take_the_place_of_small_ones() -> None:
    """More large objects than the worker has places, each of minutes: small changes pass, and the large ones arrive too."""

    async def main() -> None:
        pair = _Pair(_Shared(), "one")
        for number in range(30):
            await pair.write(f"large{number}", 32 * 40)
        async with _running(pair):
            await asyncio.sleep(5)
            delays = await _fresh_delays(pair, 20)
            assert not any(f"large{number}" in pair.raw[Side.VAST].objects for number in range(10, 30))
            for number in range(30):
                await pair.delay(f"large{number}")
        assert max(delays) < 1.0
        opened = sum(call == "open" and key.startswith("large") for call, key in pair.raw[Side.BLOB].calls)
        assert opened < 30 * (40 + 6), "who waits is not looked at again and again"

    _virtually(main())


def test_small_objects_need_little_memory_until_their_size_is_known() -> None:
    """Large objects leave memory for one object of the small ones' greatest size: four fresh changes are read at a time."""

    async def main() -> None:
        shared = _Shared(memory_bytes=16 * MIB)
        pair = _Pair(shared, "one", limits=TransferLimits(4 * MIB, 4 * MIB, 2))
        held = await shared.budget.room(12 * MIB, of="one/bulk", bulk=True)
        most = 0
        async with _running(pair):
            for number in range(8):
                await pair.write(f"fresh{number}")
            while "fresh7" not in pair.raw[Side.VAST].objects:
                most = max(most, sum(call == "open" for call, _ in pair.raw[Side.BLOB].calls) - len(pair.raw[Side.VAST].objects))
                await asyncio.sleep(0.001)
        held.close()
        assert most >= 4

    _virtually(main())


def test_what_does_not_fit_once_its_size_is_known_is_read_when_there_is_memory() -> None:
    """Six objects of three quarters of the memory each arrive, one after another."""

    async def main() -> None:
        shared = _Shared(memory_bytes=4 * MIB)
        pair = _Pair(shared, "one", limits=TransferLimits(4 * MIB, 4 * MIB, 2))
        reading = most = 0
        read_small = Transfer.read_small

        async def counted(*args: Any, **options: Any) -> Content:  # noqa: ANN401
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            try:
                await asyncio.sleep(LATENCY_SECONDS)
                return await read_small(*args, **options)
            finally:
                reading -= 1

        for number in range(6):
            await pair.write(f"old{number}", 3 * MIB)
        with patch.object(Transfer, "read_small", counted):
            async with _running(pair):
                for number in range(6):
                    await pair.delay(f"old{number}")
        assert most == 1, "never two bodies at a time"
        assert shared.budget.free == 4 * MIB
        assert 6 < sum(call == "open" for call, _ in pair.raw[Side.BLOB].calls) <= 2 * 6

    _virtually(main())


def test_a_busy_pair_does_not_hold_up_another() -> None:
    """Two pairs over one endpoint and one memory: the second's changes pass by the first's large objects and its backlog."""

    async def main() -> None:
        shared = _Shared(memory_bytes=256, calls=8)
        busy, other = _Pair(shared, "busy"), _Pair(shared, "other")
        for number in range(10):
            await busy.write(f"large{number}", 32 * 200)
        for number in range(1_000):
            await busy.write(f"old{number}")
        async with _running(busy, other):
            await asyncio.sleep(5)
            delays = await _fresh_delays(other, 20)
            assert len(busy.raw[Side.VAST].objects) < 1_000
        assert max(delays) < 1.0

    _virtually(main())


def test_who_waits_for_bandwidth_keeps_no_call_waiting() -> None:
    """The one place for a call is free while a large part waits minutes for its share of the bandwidth: a look passes."""

    async def main() -> None:
        clock = _LoopClock()
        gate = Gate(Side.VAST, clock, PaceLimits(bandwidth=parse_timetable("1k"), max_concurrency=1))
        raw = MemoryStore(Side.VAST, clock=clock)
        await raw.put("k", b"", Metadata(), stamp=None, expected_etag=None)
        store = PacedStore(raw, gate)
        part = store.put("part", bytes(SMALL_BODY_BYTES + 1), Metadata(), stamp=None, expected_etag=None)
        sending, begun = asyncio.create_task(part), clock.monotonic_seconds()
        await asyncio.sleep(1)
        await store.head("k")
        assert clock.monotonic_seconds() - begun < 2
        await sending
        assert clock.monotonic_seconds() - begun == pytest.approx(255, abs=1)

    _virtually(main())


def test_the_worker_sweeps_what_is_left_of_large_transfers() -> None:
    """Who holds the shard looks now and then; an upload of ours that nobody goes on with is aborted, a user's is not."""

    async def main() -> None:
        pair = _Pair(_Shared(), "one")
        vast = pair.raw[Side.VAST]
        ours, users = [await vast.begin_upload("k", Metadata(), stamp=None, size_bytes=1) for _ in range(2)]
        lease = await pair.state.acquire(pair.state.shard_of("k"), owner="dead", ttl_seconds=1)
        assert lease is not None
        await pair.state.begin_transfer(lease, TransferRecord("k", Side.VAST, ours.upload_id, "f", pair.clock.now_us()))
        async with _running(pair):
            while ours.upload_id in vast.uploads:
                await asyncio.sleep(10)
            assert await pair.state.transfers(lease.shard) == []
        assert list(vast.uploads) == [users.upload_id]

    _virtually(main())


@pytest.mark.parametrize(("marked", "woken"), [(0, []), (1, ["k"])], ids=["echoes only", "news"])
async def test_echoes_wake_nobody(marked: int, woken: list[str]) -> None:
    """A bulk load's own echoes put no shard first; one change that is news does."""
    context, worker = MagicMock(spec=PairContext), MagicMock(spec=Worker)
    context.mark.return_value = MarkResult(marked=marked, echoes=1 - marked)
    await WakingSink(context, worker).mark([Change("k", Side.BLOB, Source.EVENT_GRID)])
    assert [change.key for call in worker.wake_changes.call_args_list for change in call.args[0]] == woken
