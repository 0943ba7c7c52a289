"""A scan yields to live changes: while they wait too long, it works only a part of the time."""

from __future__ import annotations

from federation.model import Side
from federation.ports import Clock, State

LOOK_SECONDS = 1.0
"""How often the backlog is looked at."""
OLD_SECONDS = 5.0
"""A change that waits longer than this has the scan give way."""
YIELDED = 4.0
"""Then for each second of work the scan rests so many: it keeps a fifth of its rate, so that it ends all the same."""
LONGEST_PAUSE_SECONDS = 2.0


def pause_seconds(worked_seconds: float, waiting_seconds: float | None) -> float:
    """How long to rest after having worked; *waiting_seconds*: age of the oldest live change, None when none waits."""
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
            backlog, ahead_us = await self._state.backlog(), self._state.ahead_us
            known = [backlog.waiting_since_us(side, ahead_us[side]) for side in Side]
            self._oldest_us = min((at for at in known if at is not None), default=None)
        waiting = None if self._oldest_us is None else (self._clock.now_us() - self._oldest_us) / 1_000_000
        pause = pause_seconds(now - self._worked_from, waiting)
        if pause:
            await self._clock.sleep(pause)
        self._worked_from = self._clock.monotonic_seconds()
