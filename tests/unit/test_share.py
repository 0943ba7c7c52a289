"""A scan gives way to live changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.model import Change, Side, Source, Stamp
from federation.state.memory_state import MemoryState
from reconciler.share import LONGEST_PAUSE_SECONDS, OLD_SECONDS, Share, pause_seconds

SECOND = 1_000_000


class _Clock:
    def __init__(self) -> None:
        self.seconds = 1_000.0
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
