"""Whole scans in ranges: the cut, the sum, several processes, and going on after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.model import Base, ListEntry, Metadata, Side
from federation.ports import Clock
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from reconciler import parallel
from reconciler.book import HISTORY, Book, history, whole_scans
from reconciler.periodic import PeriodicScan
from reconciler.ranges import KEPT_SAMPLES, MOST_RANGES, Plan, Samples, boundaries, merged
from reconciler.report import Report
from reconciler.scan import Scanner, ScanOptions
from reconciler.sweep import Turn
from tests.unit.test_leases import HandClock

MONTH_US = 30 * 86_400_000_000


@given(st.lists(st.integers(0, 3_000), max_size=4), st.integers(1, 500))
def test_boundaries_cut_what_was_scanned_into_parts_of_about_one_size(rows: list[int], rows_a_range: int) -> None:
    """Ascending, no more than asked for, and no part larger than twice the asked size and the samples' distance."""
    ranges, number = [], 0
    for count in rows:
        samples = Samples(stride=4)
        for _ in range(0, count, 100):
            many = min(100, count - samples.rows)
            samples.add([f"{number + step:06d}" for step in range(many)])
            number += many
        ranges.append(samples)
    bounds = boundaries(ranges, rows_a_range=rows_a_range)
    assert bounds == sorted(set(bounds))
    assert len(bounds) < max(1, number // rows_a_range, 1)
    stride = max((one.stride for one in ranges), default=1)
    edges = [-1, *map(int, bounds), number - 1]
    if number // rows_a_range <= MOST_RANGES:
        assert all(two - one <= 2 * rows_a_range + stride for one, two in pairwise(edges))


def test_the_samples_of_a_range_do_not_grow_with_it() -> None:
    """A few hundred keys, evenly spaced, whatever the length."""
    samples = Samples()
    for start in range(0, 300_000, 1000):
        samples.add([f"{number:07d}" for number in range(start, start + 1000)])
    assert samples.rows == 300_000
    assert KEPT_SAMPLES <= len(samples.keys) <= 2 * KEPT_SAMPLES
    assert samples.keys == [f"{number:07d}" for number in range(0, 300_000, samples.stride)]


def test_a_sum_of_ranges_is_complete_only_when_every_range_is() -> None:
    """What is missing is no part of it."""
    plan = Plan(scan="s", started_us=7, fresh_state=False, turn=Turn(1), bounds=["m"])
    first, second = plan.begun(0), plan.begun(1)
    first.report.complete = True
    first.report.drift, second.report.drift = {"only_on_blob": 2}, {"only_on_blob": 1}
    assert not merged(plan, {0: first}).complete
    assert not merged(plan, {0: first, 1: second}).complete
    second.report.complete = True
    whole = merged(plan, {0: first, 1: second})
    assert (whole.complete, whole.whole, whole.drift, whole.started_us) == (True, True, {"only_on_blob": 3}, 7)
    assert not first.report.whole


def _bytes(key: str) -> bytes:
    return key.encode()


def _backwards(key: str) -> bytes:
    return key[::-1].encode()


class _Server(MemoryStore):
    """A store that can fail after some entries, and tells from where it was listed."""

    def __init__(self, side: Side) -> None:
        super().__init__(side, clock=SystemClock())
        self.fail_at = ""
        self.listed_from: list[str] = []
        self.order: Callable[[str], bytes] = _bytes

    async def list(self, *, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        """As the twin, in the server's own order."""
        if not prefix:
            # A server's store reads all of a listing while it does not know that names are keys, in order.
            self.listed_from.append(start_after if self.ordered else "everything")
        found = [entry async for entry in super().list(prefix=prefix, start_after=start_after)]
        for entry in sorted(found, key=lambda one: self.order(one.key)):
            if self.fail_at and entry.key >= self.fail_at:
                raise RetryLater("503", reason="throttled")
            yield entry


class _Pair:
    """Two servers of *rows* agreed keys, and processes that scan them."""

    def __init__(self, shards: int = 4, clock: Clock | None = None) -> None:
        self.servers = {side: _Server(side) for side in Side}
        self.state = MemoryState("pair", shards=shards, clock=clock or SystemClock())

    async def fill(self, rows: int) -> None:
        """Keys in step, but for every tenth, which only Blob has."""
        for number in range(rows):
            key = f"k{number:05d}"
            if number % 10 == 0:
                await self.servers[Side.BLOB].put(key, b"x", Metadata(), stamp=None, expected_etag=None)
            else:
                await self.agree(key)

    async def agree(self, key: str) -> None:
        """Both sides hold the key and the base says so."""
        blob, vast = [await self.servers[side].put(key, b"x", Metadata(), stamp=None, expected_etag=None) for side in Side]
        lease = await self.state.acquire(self.state.shard_of(key), owner="t", ttl_seconds=60)
        assert lease is not None
        base = Base(blob_etag=blob.etag, vast_etag=vast.etag, size_bytes=1, vast_as_of_us=2**52)
        await self.state.settle(lease, key, 0, base)
        await self.state.release(lease)

    def process(self, name: str, options: ScanOptions | None = None) -> Scanner:
        """A process that scans."""
        options = options or ScanOptions(owner=name, range_rows=500, parallel=2, save_rows=200)
        return Scanner(
            dict(self.servers),
            self.state,
            self.state,
            SystemClock(),
            quiet_us=0,
            tombstone_us=MONTH_US,
            options=options,
        )


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.comparison.BATCH", 100)
    monkeypatch.setattr(parallel, "POLL_SECONDS", 0.01)


def _counts(report: Report) -> tuple[bool, int, int, dict[str, int]]:
    return report.complete, report.in_step, report.listed[Side.BLOB], report.drift


async def test_a_second_scan_is_cut_where_the_first_says_and_finds_the_same() -> None:
    """Ranges add up to the whole, listed from their boundaries."""
    pair = _Pair()
    await pair.fill(3_000)
    one = await pair.process("a").scan()
    pair.servers[Side.BLOB].listed_from.clear()
    two = await pair.process("a").scan()
    assert _counts(one) == _counts(two) == (True, 2_700, 3_000, {"only_on_blob": 300})
    assert (one.ranges, two.ranges, two.ranges_done) == (1, 6, 6)
    assert len(set(pair.servers[Side.BLOB].listed_from)) == 6
    assert await Book(pair.state).plan() is None


async def test_two_processes_share_the_ranges_of_one_scan() -> None:
    """Both return the report of the whole, and every key was compared once."""
    pair = _Pair()
    await pair.fill(3_000)
    await pair.process("a").scan()
    calls = [await Book(pair.state).bounds()]
    reports = await asyncio.gather(pair.process("a").scan(), pair.process("b").scan())
    assert len(calls[0]) == 5
    assert reports[0].scan == reports[1].scan
    assert [_counts(report) for report in reports] == [(True, 2_700, 3_000, {"only_on_blob": 300})] * 2


async def test_a_range_whose_page_failed_is_taken_up_again_and_never_shortened() -> None:
    """The report is incomplete; the next scan goes on at the saved key and is the sum of both."""
    pair = _Pair()
    await pair.fill(3_000)
    await pair.process("a").scan()
    pair.servers[Side.VAST].fail_at = "k01900"
    failed = await pair.process("a").scan()
    assert (failed.complete, failed.whole, "503" in failed.error) == (False, False, True)
    pair.servers[Side.VAST].fail_at = ""
    pair.servers[Side.VAST].listed_from.clear()
    again = await pair.process("a").scan()
    assert (*_counts(again), again.scan, again.started_us) == (
        *(True, 2_700, 3_000, {"only_on_blob": 300}),
        failed.scan,
        failed.started_us,
    )
    assert again.resumed >= 1
    assert min(key for key in pair.servers[Side.VAST].listed_from if key) > "k01400"


async def test_what_a_killed_process_saved_is_not_scanned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first scan of a pair too: it goes on from the saved key once the dead process's hold has ended."""
    clock = HandClock()
    pair = _Pair(clock=clock)
    await pair.fill(2_000)
    dead = pair.process("dead")

    def killed(report: Report) -> None:
        if report.in_step > 1_000:
            raise SystemExit

    monkeypatch.setattr(parallel, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(parallel.ParallelScan, "_give_back", _nothing)
    with pytest.raises(SystemExit):
        await dead.scan(on_progress=killed)
    monkeypatch.undo()
    for server in pair.servers.values():
        server.listed_from.clear()
        server.ordered = False  # the next process knows nothing of it but what was saved
    clock.seconds += parallel.OWNED_SECONDS
    report = await pair.process("next").scan()
    assert (*_counts(report), report.resumed) == (True, 1_800, 2_000, {"only_on_blob": 200}, 1)
    # Each side's own last key (vast has no k01000).
    assert [server.listed_from for server in pair.servers.values()] == [["k01000"], ["k00999"]]


async def test_a_slow_scan_of_few_rows_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that takes longer than its process lives would be begun for ever."""
    monkeypatch.setattr(parallel, "OWNED_SECONDS", 0.0)
    pair = _Pair()
    await pair.fill(400)
    pair.servers[Side.VAST].fail_at = "k00250"
    slow = pair.process("slow", ScanOptions(owner="slow", save_seconds=0.0))
    assert not (await slow.scan()).complete
    pair.servers[Side.VAST].fail_at = ""
    report = await pair.process("next").scan()
    assert (*_counts(report), report.resumed) == (True, 360, 400, {"only_on_blob": 40}, 1)


async def _nothing(*_: object) -> None:
    """A dead process gives nothing back."""


async def test_a_listing_in_another_order_is_sorted_and_gives_the_same() -> None:
    """A server that sorts by its own rule: found while reading, sorted on disk, told in the report; no false delete."""
    pair = _Pair()
    await pair.fill(1_000)
    pair.servers[Side.VAST].order = _backwards
    report = await pair.process("a").scan()
    assert (*_counts(report), report.sorted_sides) == (True, 900, 1_000, {"only_on_blob": 100}, [Side.VAST])


@pytest.mark.parametrize("prefix", ["", "k"])
async def test_a_key_that_sorts_before_what_was_compared_and_comes_behind_it_is_compared(prefix: str) -> None:
    """Whatever was compared before the disorder showed is compared again: counts, samples and deletes are of the second pass."""
    pair = _Pair()
    for number in range(500):
        await pair.agree(f"k{number:05d}")
    await pair.servers[Side.VAST].put("k00050new", b"x", Metadata(), stamp=None, expected_etag=None)
    pair.servers[Side.VAST].order = lambda key: b"k00310" if key in {"k00050new", "k00060"} else key.encode()
    report = await pair.process("a", ScanOptions(owner="a", range_rows=100, save_rows=200)).scan(prefix=prefix)
    assert (*_counts(report), report.sorted_sides) == (True, 500, 500, {"only_on_vast": 1}, [Side.VAST])
    assert await pair.state.dirty_keys(limit=9) == ["k00050new"]
    assert prefix or len(await Book(pair.state).bounds()) == 4


async def test_what_was_kept_before_a_disorder_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies while it sorts leaves a range whose next owner begins it anew."""
    pair = _Pair()
    for number in range(500):
        await pair.agree(f"k{number:05d}")
    await pair.servers[Side.VAST].put("k00050new", b"x", Metadata(), stamp=None, expected_etag=None)
    pair.servers[Side.VAST].order = lambda key: b"k00310" if key == "k00050new" else key.encode()

    async def dies(*_: object, **__: object) -> AsyncIterator[ListEntry]:
        raise RetryLater("killed")
        yield

    with monkeypatch.context() as patch:
        patch.setattr("reconciler.comparison.sort_entries", dies)
        assert not (await pair.process("a").scan()).complete
    report = await pair.process("b").scan()
    assert (*_counts(report), report.resumed) == (True, 500, 500, {"only_on_vast": 1}, 0)


async def test_names_that_are_no_longer_keys_in_order_end_the_cutting() -> None:
    """A store that says so while ranges are listed: nothing is concluded, and the next scan is one range again."""
    pair = _Pair()
    await pair.fill(1_000)
    await pair.process("a").scan()
    scanner = pair.process("a")
    original = pair.servers[Side.BLOB].list

    async def disturbed(*, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        async for entry in original(prefix=prefix, start_after=start_after):
            pair.servers[Side.BLOB].ordered = False
            yield entry

    pair.servers[Side.BLOB].list = disturbed  # type: ignore[method-assign]
    assert not (await scanner.scan()).complete
    whole = await scanner.scan()
    assert (whole.complete, whole.ranges) == (True, 1)
    assert await Book(pair.state).bounds() == []


async def test_an_order_that_does_not_hold_is_not_believed_twice() -> None:
    """A store that finds an entry out of order after all: the next scan begins anew and finds out, it does not fail for ever."""
    pair = _Pair()
    await pair.fill(1_000)
    await pair.process("a").scan()
    server = pair.servers[Side.BLOB]
    original = server.list

    async def late(*, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        async for entry in original(prefix=prefix, start_after=start_after):
            if server.ordered and entry.key > "k00700":
                server.ordered = False
                raise RetryLater("out of order", reason="listing_order")
            yield entry

    server.list = late  # type: ignore[method-assign]
    assert not (await pair.process("a").scan()).complete
    whole = await pair.process("b").scan()
    assert (whole.complete, whole.ranges) == (True, 1)


async def test_a_side_emptied_between_two_halves_of_a_scan_halts_it() -> None:
    """A scan that goes on does not begin at the first key: it looks first whether a side is empty."""
    pair = _Pair()
    await pair.fill(2_000)
    await pair.process("a").scan()
    pair.servers[Side.VAST].fail_at = "k01000"
    await pair.process("a").scan()
    pair.servers[Side.VAST].objects.clear()
    before = await pair.state.dirty_keys(limit=9_999)
    report = await pair.process("a").scan()
    assert report.halted == "side_emptied_vast"
    assert await pair.state.dirty_keys(limit=9_999) == before


async def test_a_scan_that_was_asked_for_begins_after_the_asking() -> None:
    """Joining one that had begun before is not enough: what a source missed may lie behind it."""
    pair = _Pair()
    await pair.fill(2_000)
    await pair.process("a").scan()
    pair.servers[Side.VAST].fail_at = "k01000"
    cut_off = await pair.process("a").scan()
    pair.servers[Side.VAST].fail_at = ""
    periodic = PeriodicScan(pair.process("b"), SystemClock(), interval_seconds=3600, on_start=False)
    asked_us = SystemClock().now_us()
    periodic.request()
    seen = []
    task = asyncio.create_task(periodic.run())
    async with asyncio.timeout(30):
        while periodic.last is None or periodic.last.started_us < asked_us:
            if periodic.last is not None and periodic.last.scan not in seen:
                seen.append(periodic.last.scan)
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == [cut_off.scan]
    assert periodic.last.complete


async def test_whole_scans_are_kept_however_many_scoped_ones_follow() -> None:
    """What is known of convergence must not be pushed out by scans of parts."""
    pair = _Pair()
    await pair.fill(10)
    scanner = pair.process("a")
    whole = await scanner.scan()
    for _ in range(HISTORY + 5):
        await scanner.scan(prefix="k0000")
    found = await history(pair.state)
    assert len(found) == HISTORY + 1
    assert [one.scan for one in await whole_scans(pair.state)] == [whole.scan]


async def test_a_process_that_is_ended_while_it_finishes_leaves_that_to_others() -> None:
    """At once, not when its turn to finish has grown old: the next one that comes ends the scan."""
    pair = _Pair()
    await pair.fill(2_000)
    await pair.process("a").scan()
    blob, finishing = pair.servers[Side.BLOB], asyncio.Event()
    original = blob.list

    async def hanging(*, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        if prefix:  # the preserved versions, which are looked at last
            finishing.set()
            await asyncio.Event().wait()
        async for entry in original(prefix=prefix, start_after=start_after):
            yield entry

    blob.list = hanging  # type: ignore[method-assign]
    ended = asyncio.create_task(pair.process("a").scan())
    await finishing.wait()
    ended.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended
    blob.list = original  # type: ignore[method-assign]
    async with asyncio.timeout(30):
        assert (await pair.process("b").scan()).whole
    assert await Book(pair.state).plan() is None
