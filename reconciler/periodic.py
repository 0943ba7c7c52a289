"""Scan on start, then every interval, and whenever a source knows that it missed something."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from federation.errors import RetryLater
from federation.ports import Clock
from federation.telemetry import logger
from reconciler.report import Report
from reconciler.scan import Scanner

_FIRST_RETRY_SECONDS = 2.0
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
    _asked_us: int = 0
    _scanning: bool = False

    def request(self) -> None:
        """Scan as soon as the one under way is done: one that begins from now on."""
        self._asked_us = self.clock.now_us()
        self._asked.set()

    async def lend_a_hand(self) -> None:
        """Join a scan that another process began or a crash cut off; after a failure its repetition does. Raises RetryLater."""
        if not self._scanning and not self.failures and not self._asked.is_set() and await self.scanner.help_wanted():
            self._asked.set()

    async def run(self) -> None:
        """Scan for ever. A failed scan is repeated with back-off; it never counts as one that found nothing."""
        if self.on_start:
            self._asked.set()
        while True:
            await self._wait()
            self._asked.clear()
            await self._once()

    async def _wait(self) -> None:
        pause = self.interval_seconds
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

    async def _once(self) -> None:
        self._scanning = True
        try:
            report = await self.scanner.scan(on_progress=self._watch)
        except RetryLater as error:  # the state itself is away
            self.failures += 1
            self.last_error = str(error)
            _log.warning("scan failed", error=str(error))
            return
        finally:
            self.running, self._scanning = None, False
        self.last = report
        self.last_error = report.error
        self.failures = 0 if report.complete else self.failures + 1
        if report.complete and report.started_us < self._asked_us:
            self._asked.set()  # it had begun before (others', or one cut off): what was asked for may lie behind it
        log = _log.info if report.complete else _log.warning
        log("scan", complete=report.complete, rows=report.rows, marked=report.marked, drift=report.drift, error=report.error)

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
