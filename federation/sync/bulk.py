"""The lane of large transfers: few at a time, so that they leave room for everything else (fairness, design 8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

from federation.errors import RetryLater
from federation.ports import Clock

give_way: ContextVar[Callable[[], None]] = ContextVar("give_way")
"""Gives back the worker's slot of the key at work in this task: a large transfer has a lane of its own. Set by the worker."""

_was_inside: ContextVar[bool] = ContextVar("was_inside", default=False)
"""The key at work in this task has had a turn: to hash it, before it is sent."""
_FIRST_GUESS_SECONDS = 5.0
_LATEST_SECONDS = 3600.0
_MEMORY = 8
"""Transfers over which the usual duration is averaged."""


class BulkLane:
    """At most *running* large transfers at work and *waiting* in line; whoever comes then is told when to come back.

    But for a key that had a turn and needs another: what was read or kept of it, maybe for hours, would be done anew.

    Appointments are given out one after another at the lane's pace, so that a backlog of large objects is not looked at again
    and again while it waits.
    """

    def __init__(self, clock: Clock, *, running: int, waiting: int) -> None:
        self._clock = clock
        self._running = asyncio.Semaphore(running)
        self._lanes = running
        self._places = running + waiting
        self._inside = 0
        self._usual_seconds = _FIRST_GUESS_SECONDS
        self._next_seconds = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Give way, then be one of those running for the length of the block. Raises RetryLater (bulk_busy): the line is full."""
        if self._inside >= self._places and not _was_inside.get():
            raise RetryLater("other large objects go first", reason="bulk_busy", after_seconds=self._appointment())
        self._inside += 1
        _was_inside.set(True)
        try:
            step_aside = give_way.get(None)
            if step_aside is not None:
                step_aside()
            async with self._running:
                begun = self._clock.monotonic_seconds()
                yield
                taken = self._clock.monotonic_seconds() - begun
                self._usual_seconds += (taken - self._usual_seconds) / _MEMORY
        finally:
            self._inside -= 1

    def _appointment(self) -> float:
        now = self._clock.monotonic_seconds()
        pace = self._usual_seconds / self._lanes
        self._next_seconds = max(self._next_seconds, now + self._usual_seconds) + pace
        if self._next_seconds - now > _LATEST_SECONDS:
            self._next_seconds = now + self._usual_seconds
        return self._next_seconds - now


class Slot:
    """One of the worker's places, given back when its key is done or steps aside, whichever comes first."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._is_free = False

    def give_way(self) -> None:
        """Let others have the place; the key goes on in a lane of its own. Idempotent."""
        if not self._is_free:
            self._is_free = True
            self._slots.release()

    def end(self) -> None:
        """The key is done."""
        self.give_way()
