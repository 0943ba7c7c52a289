"""Ages are told by our clock, whatever the clocks of the sides are; of a clock that nobody measured they are not known."""

from __future__ import annotations

from federation.model import Side
from operations.heartbeat import SideHealth, tell_clocks
from tests.unit.test_status import NOW, SECOND, VAST_TO_BLOB, WELL, Known, ago, beat, build, change, status


async def test_ages_are_by_our_clock_by_the_most_that_a_living_process_measured() -> None:
    """With less a change would look younger than it is; a process that is gone counts only where no other measured."""
    ahead = {us: dict.fromkeys(Side, SideHealth(answers=True, clock_ahead_us=us)) for us in (-30 * SECOND, -20 * SECOND, 0)}
    gone = beat("gone", at_us=ago(900), sides=ahead[0])
    beats = [beat("one", sides=ahead[-30 * SECOND]), beat("two", sides=ahead[-20 * SECOND]), gone]
    found = await status(Known(beats=beats, changes=[change("a", Side.VAST, 50)]))
    assert found.directions[VAST_TO_BLOB].lag_seconds == 30.0
    found = await status(
        Known(beats=[beat(sides=dict.fromkeys(Side, SideHealth(answers=True))), gone], changes=[change("a", Side.VAST, 50)])
    )
    assert found.directions[VAST_TO_BLOB].lag_seconds == 50.0


async def test_with_a_clock_that_nobody_measured_the_age_of_what_waits_is_not_known() -> None:
    """It may be older than it looks; where nothing waits there is no age to know."""
    sides = {Side.BLOB: WELL, Side.VAST: SideHealth(answers=True)}
    found = await status(Known(beats=[beat(sides=sides)], changes=[change("a", Side.VAST, 5)]))
    vast = found.directions[VAST_TO_BLOB]
    assert (vast.lag_seconds, vast.converged_as_of_us, found.converged_as_of_us) == (None, None, None)
    assert "was not measured yet" in vast.unknown_because[0]
    found = await status(Known(beats=[beat(sides=sides)]))
    assert found.directions[VAST_TO_BLOB].lag_seconds == 0.0


async def test_a_command_marks_by_the_least_that_was_measured() -> None:
    """So that what it marks is rather older than younger."""
    known = Known(beats=[beat("one", sides=dict.fromkeys(Side, SideHealth(answers=True, clock_ahead_us=us))) for us in (-30, 0)])
    known.beats[1].process = "two"
    state = await build(known)
    await tell_clocks(state, NOW)
    assert state.ahead_us == dict.fromkeys(Side, -30)
