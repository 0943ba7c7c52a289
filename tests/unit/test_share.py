"""A scan gives way to live changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.model import Change, Side, Source, Stamp
from federation.progress import Claim, Lease
from federation.state.memory_state import MemoryState
from reconciler.share import LONGEST_PAUSE_SECONDS, OLD_SECONDS, Share, pause_seconds

SECOND = 1_000_000


class _Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0
        self.slept: list[float] = []

    def now_us(self) -> int:
        return int(self.seconds * SECOND)

    def monotonic_seconds(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


@given(st.floats(0, 1e3), st.none() | st.floats(0, 1e6))
def test_a_rest_is_bounded_and_only_taken_while_something_waits_too_long(worked: float, waiting: float | None) -> None:
    """The scan ends all the same, and an idle pair is scanned at full rate."""
    pause = pause_seconds(worked, waiting)
    assert 0 <= pause <= LONGEST_PAUSE_SECONDS
    assert not pause or (waiting is not None and waiting > OLD_SECONDS)


class _Scan:
    """A share, and the state whose changes it gives way to."""

    def __init__(self) -> None:
        self.clock = _Clock()
        self.state = MemoryState("pair", shards=1, clock=self.clock)
        self.share = Share(self.state, self.clock)

    async def rests(self, after_seconds: float) -> bool:
        """Whether it does, after so many seconds of work."""
        before = len(self.clock.slept)
        self.clock.seconds += after_seconds
        await self.share.give_way()
        return len(self.clock.slept) > before

    async def claimed(self) -> tuple[Lease, Claim]:
        """The one key that is due, now at work."""
        lease = await self.state.acquire(0, owner="w", ttl_seconds=1e6)
        assert lease is not None
        [claim] = await self.state.claim(lease, limit=1, now_us=self.clock.now_us())
        return lease, claim


async def test_a_scan_is_not_slowed_by_what_it_marked_itself() -> None:
    """However long ago that was written, and though another scan's clock is seconds ahead of ours."""
    scan = _Scan()
    scan.clock.seconds += 3.0
    await scan.state.mark([Change("k", Side.VAST, Source.RECONCILER, etag="e", at=Stamp(SECOND))])
    scan.clock.seconds -= 3.0
    assert [await scan.rests(seconds) for seconds in (1.0, 9.0, 5_000.0)] == [False] * 3


async def test_a_scan_is_not_slowed_by_what_was_deferred_before_that_is_due() -> None:
    """A file that is appended to all day waits for its writer, not for us; once it is due, it waits for us."""
    scan = _Scan()
    await scan.state.mark([Change("k", Side.VAST, Source.VAST_EVENTS, etag="e", at=Stamp(scan.clock.now_us()))])
    lease, claim = await scan.claimed()
    later_us = scan.clock.now_us() + 600 * SECOND
    await scan.state.defer(lease, "k", claim.hint.generation, not_before_us=later_us, error="not quiet", count_attempt=False)
    assert not await scan.rests(599.0)
    assert not await scan.rests(5.0)
    assert await scan.rests(3.0)


async def test_a_scan_gives_way_to_an_announced_change_that_is_due_too_long() -> None:
    """Also amid its own marks, and to one that it had found before it was announced; not while it is at work."""
    scan = _Scan()
    await scan.state.mark([Change("k", Side.BLOB, Source.RECONCILER, etag="e")])
    await scan.state.mark([Change("k", Side.BLOB, Source.EVENT_GRID, etag="e", at=Stamp(scan.clock.now_us()))])
    assert not await scan.rests(4.0)
    assert await scan.rests(2.0)
    assert await scan.rests(1_800.0)
    await scan.claimed()
    assert not await scan.rests(2.0)


async def test_the_scan_rests_while_a_change_waits_and_no_longer() -> None:
    """Four fifths of the time belong to the worker until the old change is applied."""
    clock = _Clock()
    state = MemoryState("pair", shards=1, clock=clock)
    share = Share(state, clock)
    await state.mark([Change("k", Side.BLOB, Source.EVENT_GRID, etag="e", at=Stamp(clock.now_us()))])
    clock.seconds += 10.0
    await share.give_way()
    assert clock.slept == [LONGEST_PAUSE_SECONDS]
    clock.seconds += 0.1
    await share.give_way()
    assert round(clock.slept[-1], 3) == 0.4
    lease = await state.acquire(0, owner="w", ttl_seconds=60)
    assert lease is not None
    [claim] = await state.claim(lease, limit=1, now_us=clock.now_us())
    await state.settle(lease, "k", claim.hint.generation, None)
    clock.seconds += 1.1
    await share.give_way()
    assert len(clock.slept) == 2
