"""Notice that the state lost marks which were acknowledged, and have a whole scan make up for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from federation.ports import Clock, State
from federation.progress import GAP_NOTE
from federation.telemetry import logger
from operations import heartbeat
from reconciler.converged import CLOCK_SLACK_US
from reconciler.ground import note_gap
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
        self._since_us = 0
        """The last loss known here that no scan has made up for yet; a failover may take the note itself back."""

    async def begin(self) -> None:
        """At the start of a process: forget the counts of processes that are gone, and take up an old gap. Raises RetryLater."""
        await self._state.forget_markers([beat.process for beat in await heartbeat.heartbeats(self._state)])
        if note := await self._state.note(GAP_NOTE):
            self._since_us = int(note)
            self._scan()

    async def look(self) -> None:
        """Every few seconds: has anything been lost, or made up for? Raises RetryLater."""
        now = self._clock.monotonic_seconds()
        if now - self._looked < _EVERY_SECONDS:
            return
        self._looked = now
        if lost := await self._state.lost_marks():
            await self._note(lost)
        note = await self._state.note(GAP_NOTE)
        others = int(note or 0) > self._since_us
        since_us = self._since_us = max(self._since_us, int(note or 0))
        report = await kept(self._state, COMPLETE) if since_us else None
        if report is not None and report.started_us >= since_us + CLOCK_SLACK_US:
            self._since_us = 0
            if note:
                await self._state.drop_note(GAP_NOTE, note)
        elif since_us > int(note or 0):  # a failover took it back
            await self._state.put_note(GAP_NOTE, str(since_us).encode())
        if others and self._since_us:  # noted by a scan of a part, or by a command, which asks for no whole one
            self._scan()

    async def _note(self, lost: Sequence[str]) -> None:
        """A scan that begins from now on finds them. Accepted as soon as that is noted, so that the next loss shows."""
        self._since_us = self._clock.now_us()  # also when the note does not get through
        await note_gap(self._state, self._clock)
        names = [name or "this process" for name in lost]
        _log.error("the state in Redis went back: marks are lost, a whole scan will find what they told", lost=names)
        self._scan()
