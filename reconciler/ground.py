"""What a scan rests on: the base it compares with is not lost under it, nor marks it made. Else it found less than it says."""

from __future__ import annotations

from secrets import token_hex

import msgspec

from federation.errors import RetryLater
from federation.ports import Clock, State
from federation.progress import GAP_NOTE, UNION_NOTE
from reconciler.converged import CLOCK_SLACK_US

MARKS_LOST, STATE_LOST = "marks_lost", "state_lost"
LOST = frozenset({MARKS_LOST, STATE_LOST})
SCAN_TASK = "scan:"
_OURS = ""


class Ground(msgspec.Struct, frozen=True):
    """Values when the scan began: of the notes of union mode and of lost marks, empty where there was none."""

    task: str
    """Under which the processes that take part keep what they marked."""
    union: str = ""
    gap: str = ""

    async def require(self, state: State, clock: Clock) -> None:
        """Raises RetryLater when the scan must not count as complete; marks it lost are noted as a gap first."""
        lost = await state.lost_marks()
        if any(name == _OURS or name.startswith(f"{self.task}:") for name in lost):
            await note_gap(state, clock)
            raise RetryLater("the state in Redis went back and lost marks of this scan: scan anew", reason=MARKS_LOST)
        gap, union = [(await state.note(name) or b"").decode() for name in (GAP_NOTE, UNION_NOTE)]
        if gap not in ("", self.gap):
            raise RetryLater("the state in Redis lost marks while this scan went on: scan anew", reason=MARKS_LOST)
        if union not in ("", self.union):
            raise RetryLater("the state in Redis was emptied while this scan went on: scan anew", reason=STATE_LOST)


async def ground(state: State) -> Ground:
    """Of a scan that begins now."""
    gap, union = [(await state.note(name) or b"").decode() for name in (GAP_NOTE, UNION_NOTE)]
    return Ground(f"{SCAN_TASK}{token_hex(8)}", union, gap)


async def wait_out_gap(state: State, clock: Clock) -> None:
    """A whole scan that begins after this surely began after marks were lost, by whoever's clock that was noted."""
    left_us = made_up_from_us(await state.note(GAP_NOTE)) - clock.now_us()
    if 0 < left_us <= 2 * CLOCK_SLACK_US:  # more: some clock is wrong, and waiting is no cure
        await clock.sleep(left_us / 1_000_000 + 1)  # which goes by another clock than the one that says when the scan began


async def note_gap(state: State, clock: Clock) -> None:
    """A whole scan that begins from now on finds what was lost. Accepted as soon as that is noted, so the next loss shows."""
    await state.put_note(GAP_NOTE, str(clock.now_us()).encode())
    await state.accept_lost_marks()


def made_up_from_us(gap: bytes | None) -> int:
    """The time from which on a whole scan makes up for the *gap*, whoever's clock it goes by; 0: there is none."""
    return int(gap) + CLOCK_SLACK_US if gap else 0
