"""The scanner over in-memory twins."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Sequence

import pytest

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.model import Base, Change, ListEntry, Metadata, Side, Source, Stamp
from federation.ports import ObjectStore
from federation.progress import UNION_NOTE, Held
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from reconciler.drift import Drift
from reconciler.merge import in_pages, merge
from reconciler.periodic import PeriodicScan
from reconciler.scan import COMPLETE, LAST, PAST, SWEEPS, Scanner, kept

SECOND = 1_000_000
DAY = 86_400 * SECOND


class _Clock(SystemClock):
    def __init__(self) -> None:
        self.us = 1_700_000_000 * SECOND

    def now_us(self) -> int:
        return self.us


class _Pair:
    """Two stores, a state and a scanner."""

    def __init__(self) -> None:
        self.clock = _Clock()
        self.raw = {side: MemoryStore(side, clock=self.clock) for side in Side}
        self.state = MemoryState("pair", shards=1, clock=self.clock)
        stores: dict[Side, ObjectStore] = dict(self.raw)
        self.scanner = Scanner(stores, self.state, self.state, self.clock, quiet_us=5 * SECOND, tombstone_us=30 * DAY)

    async def put(self, side: Side, key: str, text: str = "x") -> str:
        """A write without an event."""
        result = await self.raw[side].put(key, text.encode(), Metadata(), stamp=None, expected_etag=None)
        return result.etag

    async def agree(self, key: str) -> None:
        """Both sides hold the key and the base says so."""
        blob, vast = await self.put(Side.BLOB, key), await self.put(Side.VAST, key)
        lease = await self.state.acquire(0, owner="t", ttl_seconds=60)
        assert lease is not None
        base = Base(blob_etag=blob, vast_etag=vast, size_bytes=1, vast_as_of_us=self.clock.us + 10 * SECOND)
        await self.state.settle(lease, key, 0, base)
        await self.state.release(lease)


async def test_equal_sides_give_nothing_to_do() -> None:
    """A scan of agreed sides marks nothing and says complete."""
    pair = _Pair()
    for key in ("a", "b"):
        await pair.agree(key)
    report = await pair.scanner.scan()

    assert (report.complete, report.in_step, report.drift, report.marked) == (True, 2, {}, 0)
    assert await pair.state.dirty_keys(limit=9) == []


async def test_what_no_event_told_is_marked_and_counted_by_side() -> None:
    """Differences become hints; the report says which side's events missed them."""
    pair = _Pair()
    for key in ("gone", "same"):
        await pair.agree(key)
    await pair.put(Side.BLOB, "new")
    del pair.raw[Side.VAST].objects["gone"]
    pair.clock.us += 60 * SECOND
    report = await pair.scanner.scan()

    assert report.drift == {"only_on_blob": 1, "deleted_on_vast": 1}
    assert report.missed_by_events == {Side.BLOB: 1, Side.VAST: 1}
    assert sorted(await pair.state.dirty_keys(limit=9)) == ["gone", "new"]
    hint, *_ = await pair.state.explain("gone")
    assert hint is not None
    assert [(entry.deleted, entry.at) for entry in hint.vast] == [(True, None)]


async def test_what_an_event_told_already_is_in_flight_not_missed() -> None:
    """A key that is dirty is not blamed on the events."""
    pair = _Pair()
    etag = await pair.put(Side.BLOB, "new")
    await pair.state.mark([Change("new", Side.BLOB, Source.EVENT_GRID, etag=etag)])
    pair.clock.us += 60 * SECOND
    report = await pair.scanner.scan()

    assert (report.in_flight, report.missed_by_events[Side.BLOB]) == (1, 0)


@pytest.mark.parametrize("side", list(Side), ids=str)
async def test_what_was_agreed_on_after_its_page_was_listed_is_not_deleted(side: Side) -> None:
    """A copy made while we scan: so many of a first synchronisation would be called a mass delete, and blamed on events."""
    pair = _Pair()
    key_only = await pair.put(side, "new")
    bases = pair.state.bases

    async def later(keys: Sequence[str]) -> list[Base | None]:
        copied = await pair.put(side.other, "new")
        etags = {f"{side}_etag": key_only, f"{side.other}_etag": copied}
        lease = await pair.state.acquire(0, owner="t", ttl_seconds=60)
        assert lease is not None
        await pair.state.settle(lease, "new", 0, Base(**etags, size_bytes=1, vast_as_of_us=pair.clock.us))  # type: ignore[arg-type]
        return await bases(keys)

    pair.state.bases = later  # type: ignore[method-assign]
    report = await pair.scanner.scan()
    assert report.complete
    assert (report.drift, report.missed_by_events) == ({Drift.UNVERIFIED: 1}, dict.fromkeys(Side, 0))
    assert await pair.state.are_dirty(["new"]) == [True], "it is looked at"


async def test_a_delete_that_waits_for_a_person_was_not_missed_by_events() -> None:
    """Its source told of it, once."""
    pair = _Pair()
    await pair.agree("gone")
    await pair.raw[Side.VAST].delete("gone", expected_etag=(await pair.raw[Side.VAST].head("gone")).version.etag)
    await pair.put(Side.VAST, "other")
    pair.state._held = {"gone": Held("gone", Side.BLOB, "delete_budget", 1)}
    report = await pair.scanner.scan()
    assert report.drift[Drift.DELETED_VAST] == 1
    assert sum(report.missed.get(Drift.DELETED_VAST, {}).values()) == 0


async def test_a_young_vast_version_is_looked_at_later() -> None:
    """A version that may still be being written is due when it is quiet."""
    pair = _Pair()
    await pair.put(Side.VAST, "growing")
    report = await pair.scanner.scan()
    lease = await pair.state.acquire(0, owner="t", ttl_seconds=60)
    assert lease is not None

    assert report.young == 1
    assert await pair.state.claim(lease, limit=9, now_us=pair.clock.us + 4 * SECOND) == []
    assert len(await pair.state.claim(lease, limit=9, now_us=pair.clock.us + 7 * SECOND)) == 1


@pytest.mark.parametrize("side", list(Side))
async def test_a_side_found_empty_halts_the_pair_and_deletes_nothing(side: Side) -> None:
    """An emptied side is a named halt, not a thousand deletes."""
    pair = _Pair()
    for number in range(5):
        await pair.agree(f"k{number}")
    pair.raw[side].objects.clear()
    report = await pair.scanner.scan()

    assert (report.complete, report.halted) == (False, f"side_emptied_{side}")
    assert [record.name for record in await pair.state.halts()] == [f"side_emptied_{side}"]
    assert await pair.state.dirty_keys(limit=9) == []


async def test_a_side_that_is_being_filled_for_the_first_time_was_not_emptied() -> None:
    """A listing that was empty when it was asked says nothing about what a worker has copied there since."""
    pair = _Pair()
    await pair.put(Side.VAST, "k")

    async def filled_meanwhile(call: str, _: str) -> None:
        if call == "list" and not (await pair.state.backlog()).objects:
            lease = await pair.state.acquire(0, owner="t", ttl_seconds=60)
            assert lease is not None
            await pair.state.settle(lease, "k", 0, Base(blob_etag="b", vast_etag="v", size_bytes=1))
            await pair.state.release(lease)

    pair.raw[Side.BLOB]._hook = filled_meanwhile
    assert (await pair.scanner.scan()).halted == ""


async def test_a_missing_container_is_a_halt_and_no_delete() -> None:
    """Could not read is never absent."""
    pair = _Pair()
    await pair.agree("k")
    pair.raw[Side.BLOB].missing_container = True
    report = await pair.scanner.scan()

    assert report.halted == "container_missing"
    assert await pair.state.dirty_keys(limit=9) == []


async def test_a_failed_page_makes_the_scan_incomplete_and_moves_nothing() -> None:
    """An incomplete report never becomes the last complete one."""
    pair = _Pair()
    await pair.agree("k")
    await pair.scanner.scan()
    complete = await kept(pair.state, COMPLETE)
    pair.raw[Side.VAST].fail_next("list", RetryLater("503", reason="throttled"))
    report = await pair.scanner.scan()

    assert not report.complete
    assert "503" in report.error
    last = await kept(pair.state, LAST)
    assert last is not None
    assert not last.complete
    assert await kept(pair.state, COMPLETE) == complete
    assert await pair.state.note(PAST) is not None
    assert "INCOMPLETE" in report.text()


async def test_a_whole_scan_ends_union_mode_and_a_partial_one_does_not() -> None:
    """Union mode lasts until every key was compared once."""
    pair = _Pair()
    await pair.put(Side.BLOB, "a/k")
    await pair.state.put_note(UNION_NOTE, b"1")
    partial = await pair.scanner.scan(prefix="a/")
    assert partial.fresh_state
    assert await pair.state.note(UNION_NOTE)

    await pair.scanner.scan()
    assert not await pair.state.note(UNION_NOTE)


async def test_a_scan_of_given_keys_looks_at_these_alone() -> None:
    """What differs is marked as a whole scan would; only the first of each side is listed, and nothing is said of the rest."""
    pair = _Pair()
    for key in ("same", "gone", "both gone", "other"):
        await pair.agree(key)
    await pair.put(Side.BLOB, "new")
    for side, key in ((Side.VAST, "gone"), (Side.BLOB, "both gone"), (Side.VAST, "both gone"), (Side.VAST, "other")):
        del pair.raw[side].objects[key]
    pair.clock.us += 60 * SECOND
    for store in pair.raw.values():
        store.calls.clear()
    report = await pair.scanner.scan_keys(["same", "gone", "both gone", "new", "never there", "new"])
    assert (report.complete, report.whole, report.keys, report.in_step) == (True, False, 5, 2)
    assert report.drift.keys() >= {"only_on_blob", "deleted_on_vast"}
    assert sorted(await pair.state.dirty_keys(limit=9)) == ["both gone", "gone", "new"]
    for store in pair.raw.values():
        assert {call for call, _ in store.calls} == {"head", "list"}
        assert store.calls.count(("list", "")) == 1  # before the delete is marked
    assert "Scan of 5 given keys" in report.text()
    assert await kept(pair.state, COMPLETE) is None


async def test_a_given_key_that_cannot_be_looked_at_is_not_gone() -> None:
    """The report is incomplete, and no delete is marked."""
    pair = _Pair()
    await pair.agree("k")
    pair.raw[Side.VAST].fail_next("head", RetryLater("503", reason="throttled"))
    report = await pair.scanner.scan_keys(["k"])
    assert (report.complete, "503" in report.error) == (False, True)
    assert await pair.state.dirty_keys(limit=9) == []


async def test_a_dry_run_marks_and_records_nothing() -> None:
    """Differences are told, nothing is written anywhere."""
    pair = _Pair()
    await pair.put(Side.BLOB, "new")
    found = [difference.row.key async for difference in pair.scanner.differences()]

    assert found == ["new"]
    assert await pair.state.dirty_keys(limit=9) == []
    assert await pair.state.note(LAST) is None


async def test_scans_start_at_once_on_request_and_survive_a_failure() -> None:
    """On start, when asked, and again after a fault."""
    pair = _Pair()
    pair.raw[Side.BLOB].fail_next("list", RetryLater("503", reason="throttled"))
    periodic = PeriodicScan(pair.scanner, SystemClock(), interval_seconds=0.05, on_start=True)
    task = asyncio.create_task(periodic.run())
    async with asyncio.timeout(10):
        while periodic.last is None or not periodic.last.complete:
            await asyncio.sleep(0.01)
        first = periodic.last
        periodic.request()
        while periodic.last is first:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert periodic.failures == 0


async def test_memory_does_not_grow_with_the_listings() -> None:
    """A merge of 200,000 rows a side holds a few pages at a time."""

    async def listing() -> AsyncIterator[ListEntry]:
        for number in range(200_000):
            yield ListEntry(f"{number:08d}", "e", 1, Stamp(0))

    tracemalloc.start()
    rows = 0
    async for batch in merge(in_pages(listing(), 1000), in_pages(listing(), 1000)):
        rows += len(batch)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert rows == 200_000
    assert peak_bytes < 2_000_000


async def test_tombstones_past_their_retention_are_forgotten_a_few_shards_a_scan() -> None:
    """What both sides agreed is gone long ago is dropped; a younger delete and every live record stay."""
    pair = _Pair()
    await pair.agree("live")
    lease = await pair.state.acquire(0, owner="t", ttl_seconds=60)
    assert lease is not None
    for key, days in (("old", 31), ("young", 29)):
        await pair.state.settle(lease, key, 0, Base(deleted=True, written=Stamp(pair.clock.us - days * DAY)))
    report = await pair.scanner.scan()
    assert (report.complete, report.forgotten) == (True, 1)
    assert "no longer remembered: 1" in report.text()
    live, old, young = await pair.state.bases(["live", "old", "young"])
    assert live is not None
    assert old is None
    assert young is not None


async def test_every_shard_comes_round_and_a_partial_scan_forgets_nothing() -> None:
    """The cost of a scan is bounded; after SWEEPS whole scans no tombstone was left out."""
    pair = _Pair()
    pair.state = MemoryState("pair", shards=64, clock=pair.clock)
    scanner = Scanner(dict(pair.raw), pair.state, pair.state, pair.clock, quiet_us=0, tombstone_us=30 * DAY)
    for number in range(200):
        key = f"k{number}"
        lease = await pair.state.acquire(pair.state.shard_of(key), owner="t", ttl_seconds=60)
        assert lease is not None
        await pair.state.settle(lease, key, 0, Base(deleted=True, written=Stamp(pair.clock.us - 31 * DAY)))
        await pair.state.release(lease)
    assert (await scanner.scan(prefix="k")).forgotten == 0
    forgotten = [(await scanner.scan()).forgotten for _ in range(SWEEPS)]
    assert sum(forgotten) == 200
    assert max(forgotten) < 50
