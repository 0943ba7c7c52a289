"""What a process does when the state lost marks: one whole scan, asked for once, remembered over a restart."""

from __future__ import annotations

import msgspec

from federation.progress import GAP_NOTE
from federation.state.memory_state import MemoryState
from operations.lost_marks import LostMarks
from reconciler.report import Report
from reconciler.scan import COMPLETE
from tests.unit.test_leases import HandClock


class Forgetful(MemoryState):
    """Says of itself that marks are gone until somebody accepts it."""

    lost: tuple[str, ...] = ()

    async def lost_marks(self) -> tuple[str, ...]:
        """As set."""
        return self.lost

    async def accept_lost_marks(self) -> None:
        """Nothing is missing any more."""
        self.lost = ()


async def test_lost_marks_lead_to_one_scan_and_a_note_until_it_is_done() -> None:
    """A scan that began before the loss was seen makes up for nothing; the next does."""
    clock = HandClock()
    state = Forgetful("pair", shards=1, clock=clock)
    asked: list[int] = []
    watch = LostMarks(state, clock, lambda: asked.append(1))

    async def look() -> None:
        clock.seconds += 10
        await watch.look()

    await look()
    assert asked == []
    state.lost = ("vast_events",)
    await look()
    await look()
    assert asked == [1]
    again = LostMarks(state, clock, lambda: asked.append(2))
    await again.begin()
    assert asked == [1, 2]

    note = await state.note(GAP_NOTE)
    assert note is not None
    for started, gone in ((int(note) - 1, False), (int(note), True)):
        await state.put_note(COMPLETE, msgspec.json.encode(Report(started_us=started)))
        await look()
        assert (not state.lost) == gone
        assert (not await state.note(GAP_NOTE)) == gone


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
