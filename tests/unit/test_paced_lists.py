"""Listings keep to the gate of their endpoint: they wait for it, and tell it how it went."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from federation.errors import RetryLater
from federation.keys import policy_for
from federation.model import ListEntry, Metadata, Side, Stamp, StampOrigin
from federation.stores.listing import OrderedListing
from federation.stores.memory import MemoryStore
from federation.stores.pages import Page
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import LONGEST_REST_SECONDS, Gate, PaceLimits
from fedplane.commands.reconcile import Part, _scan
from reconciler.scan import Scanner, ScanOptions
from tests.unit.world import FakeClock, World

PAGE = 4
FREE = PaceLimits()


class _Side(MemoryStore):
    """A page of it is refused once *refusals* say so: by how many entries came before."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(Side.VAST, clock=clock)
        self.capabilities = replace(self.capabilities, page_size=PAGE)
        self.refusals: dict[int, RetryLater] = {}

    async def list(self, *, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        """As the twin."""
        count = 0
        async for entry in super().list(prefix=prefix, start_after=start_after):
            if count in self.refusals:
                raise self.refusals.pop(count)
            count += 1
            yield entry


async def _side(limits: PaceLimits = FREE, *, objects: int = 3 * PAGE) -> tuple[_Side, PacedStore]:
    clock = FakeClock()
    raw = _Side(clock)
    for number in range(objects):
        await raw.put(f"k{number:02d}", b"", Metadata(), stamp=None, expected_etag=None)
    raw.calls.clear()
    return raw, PacedStore(raw, Gate(Side.VAST, clock, limits))


async def _listed(store: PacedStore) -> list[str]:
    return [entry.key async for entry in store.list()]


def _throttled(after_seconds: float | None = None) -> RetryLater:
    return RetryLater("503", reason="throttled", side=Side.VAST, after_seconds=after_seconds)


async def test_a_short_rest_is_waited_out() -> None:
    """A scan does not end because a side asked for a moment; nothing is asked of it meanwhile."""
    raw, store = await _side()
    begun = store.gate.clock.monotonic_seconds()
    store.gate.failed(_throttled(3.0))
    entries = store.list()
    assert (await anext(entries)).key == "k00"
    assert store.gate.clock.monotonic_seconds() - begun == pytest.approx(3.0, abs=0.01)
    await entries.aclose()
    assert raw.calls == [("list", "")]


@pytest.mark.parametrize("call", ["list", "holds_any"])
async def test_a_long_rest_ends_it_before_anything_is_sent(call: str) -> None:
    """Whoever lists hears when to come back, and would lose its range by waiting."""
    raw, store = await _side()
    store.gate.failed(_throttled(60.0))
    with pytest.raises(RetryLater) as refused:
        await (_listed(store) if call == "list" else store.holds_any())
    assert (refused.value.reason, refused.value.after_seconds) == ("paced", 60.0)
    assert raw.calls == []
    assert store.gate.throttles == 1


async def test_a_rest_asked_for_under_way_slows_it_and_does_not_end_it() -> None:
    """What was told another request holds for the pages still to come, as far as a listing can wait: few can be gone on with."""
    _, store = await _side()
    entries = store.list()
    assert (await anext(entries)).key == "k00"
    store.gate.failed(_throttled(60.0))
    begun = store.gate.clock.monotonic_seconds()
    assert len([entry async for entry in entries]) == 3 * PAGE - 1
    assert store.gate.clock.monotonic_seconds() - begun == pytest.approx(3 * LONGEST_REST_SECONDS, abs=0.01)
    assert store.gate.throttles == 1


@pytest.mark.parametrize("call", ["list", "holds_any"])
async def test_a_page_s_retry_after_closes_the_gate_for_all(call: str) -> None:
    """Workers of this process, and through their notices of others, leave the side alone as well."""
    raw, store = await _side()
    if call == "list":
        raw.refusals[2] = _throttled(60.0)
    else:
        raw.fail_next("list", _throttled(60.0))
    with pytest.raises(RetryLater, match="503"):
        await (_listed(store) if call == "list" else store.holds_any())
    assert store.gate.closed_for_seconds() == 60.0
    with pytest.raises(RetryLater, match="asked for rest"):
        await store.head("k00")


async def test_pages_that_come_count_as_answers() -> None:
    """Failures before a page are not in a row with those after it, and a page opens a gate that is open for a probe."""
    _, store = await _side()
    store.gate.failed(_throttled())
    store.gate.failed(_throttled())
    assert len(await _listed(store)) == 3 * PAGE
    assert (store.gate.failures, store.gate.failing_since_us) == (0, None)
    store.gate.failed(_throttled(2.0))
    assert store.gate.tripped
    await _listed(store)
    assert not store.gate.tripped


async def test_what_was_read_before_others_failed_does_not_speak_for_the_side() -> None:
    """The entries of a page that are still at hand are no answer to what was asked after them."""
    _, store = await _side(objects=PAGE)
    async for entry in store.list():
        if entry.key == "k01":
            store.gate.failed(_throttled())
    assert store.gate.failing_since_us is not None


async def test_pages_take_of_the_rate_and_hold_no_place() -> None:
    """A request each; and while the reader takes its time another call finds the only place free."""
    _, store = await _side(PaceLimits(requests_per_second=1.0, max_concurrency=1))
    begun = store.gate.clock.monotonic_seconds()
    async for entry in store.list():
        if entry.key == "k00":
            await store.head("k00")
    # Of five, with the look past the last page and the head, a second's worth is there at once.
    assert store.gate.clock.monotonic_seconds() - begun == pytest.approx(4.0, abs=0.01)


async def test_a_page_does_not_wait_behind_all_that_others_asked_for() -> None:
    """Its range would be another's by then."""
    _, store = await _side(PaceLimits(requests_per_second=1.0), objects=1)
    store.gate._requests.take(100, 1.0)
    begun = store.gate.clock.monotonic_seconds()
    await _listed(store)
    assert store.gate.clock.monotonic_seconds() - begun == pytest.approx(LONGEST_REST_SECONDS, abs=0.01)


async def test_a_scan_beside_a_worker_that_was_sent_away_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute's rest that another request was told slows its pages and puts off what is not begun; it ends whole."""
    monkeypatch.setattr("reconciler.comparison.BATCH", 10)
    world = World()
    for raw in world.raw.values():
        raw.capabilities = replace(raw.capabilities, page_size=20)
    for number in range(200):
        await world.write(Side.BLOB, f"k{number:03d}", "x")
    await world.step()
    await world.step()
    world.later(3600.0)
    store, listing, begun, told = world.ctx.stores[Side.VAST], world.raw[Side.VAST].list, world.clock.monotonic_seconds(), 0
    assert isinstance(store, PacedStore)

    async def worked_beside(*, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        nonlocal told
        async for entry in listing(prefix=prefix, start_after=start_after):
            if entry.key == "k100" and not told:
                told += 1
                store.gate.failed(_throttled(60.0))
            yield entry

    monkeypatch.setattr(world.raw[Side.VAST], "list", worked_beside)
    options = ScanOptions(save_rows=20, asked=True)
    scanner = Scanner(world.ctx.stores, world.state, world.state, world.clock, quiet_us=1, tombstone_us=10**15, options=options)
    report = await _scan(scanner, Part("", ()), 200, lambda *_: None, world.clock)
    assert told == 1
    assert (report.complete, report.rows) == (True, 200)
    assert 20 <= world.clock.monotonic_seconds() - begun < 70


async def test_an_order_of_its_own_is_no_failure_of_the_side() -> None:
    """It answered in full: that its names come in another order than before closes no gate."""

    async def pages(prefix: str, after: str) -> AsyncIterator[Page]:
        del prefix, after
        yield Page([ListEntry(key, "e", 0, Stamp(1, 1, StampOrigin.LAST_MODIFIED), None) for key in ("b", "a")], "")

    listing = OrderedListing(Side.VAST, policy_for(Side.VAST), "", pages)
    listing.in_order = True
    with pytest.raises(RetryLater) as refused:
        _ = [entry async for entry in listing.entries("", "")]
    assert (refused.value.reason, refused.value.answered) == ("listing_order", True)
