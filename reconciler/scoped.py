"""A scan of what is below a prefix, for somebody who may end it and ask again: it goes on from where it was kept.

It is one range that one process scans. What is kept is of the last such scan; another prefix, or a while, and it is begun anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from federation.errors import RetryLater
from federation.model import Base, Side
from federation.ports import Clock, ObjectStore, State
from reconciler.book import Book, Scoped
from reconciler.comparison import Comparison
from reconciler.ground import LOST, Ground, ground
from reconciler.merge import Batch
from reconciler.report import Report
from reconciler.seams import LISTING_ORDER
from reconciler.withheld import Gone

KEPT_US = 900_000_000
"""Since it was kept last: time to start again after a kill or an outage. Who asks later wants to know how it is now."""


class ScopedScan:
    """*report* names the prefix. Without *resumes* nothing is kept, and nothing gone on with."""

    def __init__(
        self,
        comparison: Comparison,
        stores: Mapping[Side, ObjectStore],
        state: State,
        clock: Clock,
        report: Report,
        *,
        resumes: bool,
        save_rows: int,
        save_seconds: float,
        on_progress: Callable[[Report], None] | None,
    ) -> None:
        self.report = report
        self.withheld: list[Gone] = []
        self._comparison = comparison
        self._stores = stores
        self._state = state
        self._book = Book(state)
        self._clock = clock
        self._resumes = resumes
        self._save_rows = save_rows
        self._save_seconds = save_seconds
        self._on_progress = on_progress
        self._ground: Ground | None = None
        self._saved_rows, self._saved_at = 0, clock.monotonic_seconds()

    async def begin(self) -> Report:
        """The report to add to: a new one, or the one of the scan that was cut off."""
        kept = await self._book.scoped() if self._resumes else None
        if kept is not None and kept.report.prefix == self.report.prefix and self._clock.now_us() - kept.saved_us <= KEPT_US:
            self.report, self.withheld, self._ground = kept.report, kept.withheld, kept.ground
            self.report.resumed += 1
            self._saved_rows = self.report.rows
            if await self._book.bounds():  # as the last whole scan saw it, names are keys, in order: listings may begin anywhere
                for store in self._stores.values():
                    store.ordered = True
        self._ground = self._ground or await ground(self._state)
        await self._state.keep_marks(self._ground.task)
        return self.report

    async def run(self) -> None:
        """Compare what is left. Raises what the listings and the state raise."""
        try:
            await self._comparison.compare_span(self.report, self.withheld, self._after_batch, self._anew)
        except RetryLater as error:
            if error.reason == LISTING_ORDER:
                await self._forget()
            raise

    async def end(self) -> None:
        """It is complete. Raises RetryLater where it is not, since the state or marks were lost under it."""
        if self._ground is not None:
            try:
                await self._ground.require(self._state, self._clock)
            except RetryLater as error:
                if error.reason in LOST:
                    await self._forget()
                raise
        self.report.ranges_done = int(self.report.resumed > 0)
        self.report.complete = True
        await self._forget()

    async def leave(self) -> None:
        """This process is done with it. What may be gone on with still rests on the marks made so far."""
        if self._ground is not None and (self.report.complete or not self._resumes):
            await self._state.drop_marks(self._ground.task)

    async def _anew(self) -> None:
        self._saved_rows = 0
        await self._forget()

    async def _forget(self) -> None:
        if self._resumes:
            await self._book.drop_scoped()

    async def _after_batch(self, _: Batch, __: Sequence[Base | None]) -> None:
        if self._on_progress is not None:
            self._on_progress(self.report)
        if not self._resumes:
            return
        now = self._clock.monotonic_seconds()
        if self.report.rows - self._saved_rows >= self._save_rows or now - self._saved_at >= self._save_seconds:
            saved_us = self._clock.now_us()
            await self._book.save_scoped(
                Scoped(report=self.report, withheld=self.withheld, saved_us=saved_us, ground=self._ground)
            )
            self._saved_rows, self._saved_at = self.report.rows, now
