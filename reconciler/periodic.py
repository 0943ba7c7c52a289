"""Scan on start, then every interval, and at once what a source knows that it missed: everything, or what is below a prefix."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from federation.errors import RetryLater
from federation.ports import Clock
from federation.telemetry import logger
from reconciler import wanted
from reconciler.report import Report
from reconciler.scan import Scanner

_FIRST_RETRY_SECONDS = 2.0
_CLOCKS_US = 60_000_000
"""By so much the clocks of our processes may differ: what looks asked for before a scan began was asked for before it."""
_log = logger("fedplane.reconciler")


@dataclass(slots=True)
class PeriodicScan:
    """Runs until cancelled. ``running`` is the report of the scan under way, for people to watch."""

    scanner: Scanner
    clock: Clock
    interval_seconds: float
    on_start: bool
    last: Report | None = None
    running: Report | None = None
    failures: int = 0
    last_error: str = ""
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _wanted: set[str] = field(default_factory=set)
    _again: set[str] = field(default_factory=set)
    """Of the wanted, what a scan failed at: it is repeated soon, whatever came of others meanwhile."""
    _heard: dict[str, bytes] = field(default_factory=dict)
    _whole_due_seconds: float = 0.0
    _scanning: bool = False
    _helping: bool = False
    _owed: bool = False
    """Whether what is scanned now was asked for: then it must have begun after the asking."""

    def request(self, prefix: str = "") -> None:
        """Scan the keys that begin with *prefix* as soon as the scan under way is done."""
        self._wanted = set(wanted.coalesce({*self._wanted, prefix}))
        self._asked.set()

    async def request_asked(self) -> None:
        """As ``request``, for what other processes asked for through the state. Raises RetryLater."""
        wishes = await wanted.asked(self.scanner.state)
        for prefix, at in wishes.items():
            if self._heard.get(prefix) != at:
                self.request(prefix)
        self._heard = wishes

    async def lend_a_hand(self) -> None:
        """Join a scan that another process began or a crash cut off; after a failure its repetition does. Raises RetryLater."""
        if not self._scanning and not self.failures and not self._asked.is_set() and await self.scanner.help_wanted():
            self._helping = True
            self._asked.set()

    async def run(self) -> None:
        """Scan for ever. A failed scan is repeated with back-off; it never counts as one that found nothing."""
        self._whole_due_seconds = self.clock.monotonic_seconds() + self.interval_seconds
        if self.on_start:
            self.request()
        while True:
            await self._wait()
            began = self.clock.monotonic_seconds()
            for prefix in await self._take():
                await self.once(prefix)
            # However much is asked for, scans take half of the time at most.
            await self.clock.sleep(min(self.clock.monotonic_seconds() - began, self.interval_seconds))

    async def _wait(self) -> None:
        pause = max(0.0, self._whole_due_seconds - self.clock.monotonic_seconds())
        if self.failures:
            pause = min(pause, _FIRST_RETRY_SECONDS * 2 ** min(self.failures - 1, 6))
        waiting = asyncio.ensure_future(self._asked.wait())
        sleeping = asyncio.ensure_future(self.clock.sleep(pause))
        try:
            await asyncio.wait({waiting, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (waiting, sleeping):
                task.cancel()
            await asyncio.gather(waiting, sleeping, return_exceptions=True)

    async def _take(self) -> tuple[str, ...]:
        self._asked.clear()
        taken, self._wanted = self._wanted, set()
        helping, self._helping, self._owed = self._helping and not taken, False, bool(taken)
        # Scoped scans, however many, never put off the whole one.
        if self.clock.monotonic_seconds() >= self._whole_due_seconds:
            return ("",)
        if helping:  # if it is still there: others may have ended it while we rested, and we would begin another
            return ("",) if await self._help_wanted() else ()
        return wanted.coalesce(taken)

    async def _help_wanted(self) -> bool:
        try:
            return await self.scanner.help_wanted()
        except RetryLater:
            return False  # we are asked again

    async def once(self, prefix: str) -> None:
        """Scan *prefix* now, and note what was asked for as fulfilled; what came of it is in ``last`` and ``last_error``."""
        self._scanning = True
        begun_us = self.clock.now_us()
        try:
            wishes = await wanted.asked(self.scanner.state)
            report = await self.scanner.scan(prefix=prefix, on_progress=self._watch)
            joined = bool(report.scan) and report.started_us < begun_us  # others', or one cut off
            if joined:  # what was asked for since it began may lie behind it
                wishes = {one: at for one, at in wishes.items() if int(at) < report.started_us - _CLOCKS_US}
            if report.complete:
                await wanted.fulfil(self.scanner.state, wishes, prefix)
        except RetryLater as error:  # the state itself is away
            self._failed(prefix, str(error))
            _log.warning("scan failed", prefix=prefix, error=str(error))
            return
        finally:
            self.running, self._scanning = None, False
            if not prefix:
                self._whole_due_seconds = self.clock.monotonic_seconds() + self.interval_seconds
        self.last = report
        if report.complete:
            self._again = {one for one in self._again if not one.startswith(prefix)}
            if not self._again:
                self.failures, self.last_error = 0, ""
            if joined and (self._owed or wishes):
                self.request(prefix)
        else:
            self._failed(prefix, report.error)
        log = _log.info if report.complete else _log.warning
        log(
            "scan",
            prefix=prefix,
            complete=report.complete,
            rows=report.rows,
            marked=report.marked,
            drift=report.drift,
            error=report.error,
        )

    def _failed(self, prefix: str, error: str) -> None:
        self.failures += 1
        self.last_error = error
        self._again.add(prefix)
        self._wanted = set(wanted.coalesce({*self._wanted, prefix}))

    def _watch(self, report: Report) -> None:
        self.running = report

    def health(self) -> dict[str, object]:
        """For status: what the last scan said and whether one runs."""
        return {
            "running": self._scanning,
            "failures": self.failures,
            "last_error": self.last_error,
            "interval_seconds": self.interval_seconds,
        }
