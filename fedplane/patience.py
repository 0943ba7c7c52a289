"""Riding over a passing fault: a command that works for hours does not end at the first answer that comes late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from federation.backoff import LONGEST_BACKOFF_SECONDS, backoff_seconds
from federation.errors import RetryLater
from federation.ports import Clock
from federation.telemetry import logger

_PAUSES = 10
_LONGEST_PAUSE_SECONDS = 5.0
_T = TypeVar("_T")
_log = logger("fedplane")


async def patiently(step: Callable[[], Awaitable[_T]], clock: Clock, far: Callable[[], object] = lambda: None) -> _T:
    """What *step* returns, tried again for about half a minute while it says to come back later. Raises its last refusal.

    A refusal that says when to come back is waited out, up to two minutes each. Whenever *far* tells something new, which is how
    far *step* has come, the half minute begins anew.
    """
    attempt, furthest = 0, far()
    while True:
        try:
            return await step()
        except RetryLater as error:
            here = far()
            if here != furthest:
                attempt, furthest = 0, here
            if attempt == _PAUSES:
                raise
            pause = min(_LONGEST_PAUSE_SECONDS, backoff_seconds(attempt, first_seconds=0.5))
            pause = max(pause, min(LONGEST_BACKOFF_SECONDS, error.after_seconds or 0.0))
            _log.warning("trying again", error=str(error), reason=error.reason, in_seconds=round(pause, 1))
        attempt += 1
        await clock.sleep(pause)
