"""Notice that the state lost marks which were acknowledged, and have a whole scan make up for it."""

from __future__ import annotations

from collections.abc import Callable

from federation.ports import Clock, State
from federation.progress import GAP_NOTE
from federation.telemetry import logger
from operations import heartbeat
from reconciler.scan import COMPLETE, kept

_EVERY_SECONDS = 5.0
_log = logger("fedplane.engine")


class LostMarks:
    """A note stays in the state until a whole scan that began later is done, so that a restart does not forget it."""

    def __init__(self, state: State, clock: Clock, scan: Callable[[], None]) -> None:
        self._state = state
        self._clock = clock
        self._scan = scan
        self._looked = float("-inf")

    async def begin(self) -> None:
        """At the start of a process: forget the counts of processes that are gone, and take up an old gap. Raises RetryLater."""
        await self._state.forget_markers([beat.process for beat in await heartbeat.heartbeats(self._state)])
        if await self._state.note(GAP_NOTE):
            self._scan()

    async def look(self) -> None:
        """Every few seconds: has anything been lost, or made up for? Raises RetryLater."""
        now = self._clock.monotonic_seconds()
        if now - self._looked < _EVERY_SECONDS:
            return
        self._looked = now
        note = await self._state.note(GAP_NOTE)
        if note is None:
            lost = await self._state.lost_marks()
            if lost:
                await self._state.put_note(GAP_NOTE, str(self._clock.now_us()).encode())
                names = [name or "this process" for name in lost]
                _log.error("the state in Redis went back: marks are lost, a whole scan will find what they told", lost=names)
                self._scan()
            return
        report = await kept(self._state, COMPLETE)
        if report is not None and report.started_us >= int(note):
            await self._state.accept_lost_marks()
            await self._state.drop_note(GAP_NOTE, note)
