"""A scan yields to live changes: while they wait too long, it works only a part of the time.

Live is what was announced and is due, told by its place in the due set: what only a scan found stands ``SCAN_BEHIND_US`` behind,
what was deferred is not due yet, what is claimed is at work. As where keys are claimed, an announced change that waits for as
long as that is not told from a scan's backlog, and a scan's key that is tried again counts as announced.
"""

from __future__ import annotations

from federation.ports import Clock, State
from federation.progress import SCAN_BEHIND_US
from reconciler.converged import CLOCK_SLACK_US

LOOK_SECONDS = 1.0
"""How often it is looked for what is due."""
OLD_SECONDS = 5.0
"""A change that waits longer than this has the scan give way."""
YIELDED = 4.0
"""Then for each second of work the scan rests so many: it keeps a fifth of its rate, so that it ends all the same."""
LONGEST_PAUSE_SECONDS = 2.0


def pause_seconds(worked_seconds: float, waiting_seconds: float | None) -> float:
    """How long to rest after having worked; *waiting_seconds*: since the oldest live change is due, None when none is."""
    if waiting_seconds is None or waiting_seconds <= OLD_SECONDS:
        return 0.0
    return min(LONGEST_PAUSE_SECONDS, max(0.0, worked_seconds) * YIELDED)


class Share:
    """Call ``give_way`` between pieces of work."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._worked_from = clock.monotonic_seconds()
        self._looked = self._worked_from
        self._oldest_us: int | None = None

    async def give_way(self) -> None:
        """Rest if live changes wait. Raises RetryLater."""
        now = self._clock.monotonic_seconds()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            now_us = self._clock.now_us()
            # Another scan's marks may be of a clock ahead of ours.
            from_us = now_us - SCAN_BEHIND_US + CLOCK_SLACK_US
            self._oldest_us = await self._state.due_since_us(from_us=from_us, now_us=now_us)
        waiting = None if self._oldest_us is None else (self._clock.now_us() - self._oldest_us) / 1_000_000
        pause = pause_seconds(now - self._worked_from, waiting)
        if pause:
            await self._clock.sleep(pause)
        self._worked_from = self._clock.monotonic_seconds()
