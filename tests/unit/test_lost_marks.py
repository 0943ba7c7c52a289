"""What a process does when the state lost marks: one whole scan, asked for once, remembered over a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from federation.progress import GAP_NOTE
from federation.state.memory_state import MemoryState
from operations.lost_marks import LostMarks
from reconciler.converged import CLOCK_SLACK_US
from reconciler.ground import note_gap
from reconciler.report import Report
from reconciler.scan import COMPLETE
from tests.unit.test_leases import HandClock


class Forgetful(MemoryState):
    """Says of itself that marks are gone until somebody accepts it."""

    lost: tuple[str, ...] = ()

    async def whole_scan(self, started_us: int) -> None:
        """One that began then is done."""
        await self.put_note(COMPLETE, msgspec.json.encode(Report(started_us=started_us)))

    async def gap(self) -> int:
        """From when on a whole scan has to begin; 0 when nothing is missing."""
        return int(await self.note(GAP_NOTE) or 0)

    async def lost_marks(self) -> tuple[str, ...]:
        """As set."""
        return self.lost

    async def accept_lost_marks(self) -> None:
        """Nothing is missing any more."""
        self.lost = ()


def watched() -> tuple[HandClock, Forgetful, list[int], Callable[[], Awaitable[None]]]:
    """A clock, a state, who was asked for a scan, and a look ten seconds later."""
    clock = HandClock()
    state = Forgetful("pair", shards=1, clock=clock)
    asked: list[int] = []
    watch = LostMarks(state, clock, lambda: asked.append(1))

    async def look() -> None:
        clock.seconds += 10
        await watch.look()

    return clock, state, asked, look


async def test_lost_marks_lead_to_one_scan_and_a_note_until_it_is_done() -> None:
    """A scan that may have begun before the loss was seen, by whoever's clock, makes up for nothing; the next does."""
    clock, state, asked, look = watched()
    await look()
    assert asked == []
    state.lost = ("vast_events",)
    await look()
    await look()
    assert asked == [1]
    again = LostMarks(state, clock, lambda: asked.append(2))
    await again.begin()
    assert asked == [1, 2]

    gap = await state.gap()
    for started, made_up in ((gap + CLOCK_SLACK_US - 1, False), (gap + CLOCK_SLACK_US, True)):
        await state.whole_scan(started)
        await look()
        assert (not await state.gap()) == made_up
    assert asked == [1, 2]


async def test_a_second_loss_under_a_scan_wants_a_scan_of_its_own() -> None:
    """The scan that makes up for the first may have passed the keys whose marks the second took."""
    clock, state, asked, look = watched()
    state.lost = ("",)
    await look()
    begun_us = clock.now_us()
    state.lost = ("",)
    await look()
    second_us = await state.gap()
    await state.whole_scan(begun_us)
    await look()
    assert begun_us < second_us == await state.gap()
    assert asked == [1, 1]
    await state.whole_scan(second_us + CLOCK_SLACK_US)
    await look()
    assert await state.gap() == 0


async def test_a_note_that_a_failover_takes_back_is_written_again() -> None:
    """It is in the same Redis as the marks; whoever noted the loss remembers it until a scan has made up for it."""
    clock = HandClock()
    state = Forgetful("pair", shards=1, clock=clock)
    watch = LostMarks(state, clock, lambda: None)
    state.lost = ("",)
    await watch.look()
    gap = await state.gap()
    await state.put_note(GAP_NOTE, b"")
    clock.seconds += 10
    await watch.look()
    assert await state.gap() == gap > 0
    await state.whole_scan(gap + CLOCK_SLACK_US)
    await state.put_note(GAP_NOTE, b"")
    for _ in range(2):
        clock.seconds += 10
        await watch.look()
        assert await state.gap() == 0


async def test_it_does_not_ask_at_every_heartbeat() -> None:
    """A look costs a question a shard."""
    clock = HandClock()
    state = Forgetful("pair", shards=1, clock=clock)
    asked: list[int] = []
    watch = LostMarks(state, clock, lambda: asked.append(1))
    await watch.look()
    state.lost = ("",)
    await watch.look()
    assert asked == []


async def test_a_gap_that_another_one_noted_is_scanned_for_too() -> None:
    """A scan of a part, or a command, notes what it lost, and asks nobody for a whole one."""
    clock, state, asked, look = watched()
    await look()
    await note_gap(state, clock)
    await look()
    await look()
    assert asked == [1]
