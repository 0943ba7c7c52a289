"""One whole scan, by several tasks of several processes: each range is a task that one of them owns, saved as it goes.

A small pair is one range, and nothing is written down before its first save: it is scanned from its start each time. From then on
the plan is in the state: others may take what nobody owns, and whoever comes after a crash goes on from each range's saved key.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from federation.errors import FederationError, RetryLater
from federation.model import Base, Side
from federation.ports import Clock, ObjectStore, State
from reconciler import sweep
from reconciler.book import FINISHING, PLANNING, Book, range_task
from reconciler.comparison import Comparison
from reconciler.finishing import Finish
from reconciler.ground import LOST
from reconciler.merge import Batch
from reconciler.ranges import Plan, Progress, Samples, boundaries, merged
from reconciler.report import Report
from reconciler.seams import LISTING_ORDER
from reconciler.withheld import Gone

OWNED_SECONDS = 30.0
"""After which the range of a process that died is taken by another."""
FINISH_SECONDS = 300.0
POLL_SECONDS = 1.0
TELL_SECONDS = 0.2
MOST_CUTS = 16
"""Whole scans in a row that are cut; the next is one range, which no order of a server's own can hide anything from."""


Place = tuple[str, bool] | None
"""The last key that was compared, and whether the range was to its end; None: nothing of it was kept."""


class LostError(Exception):
    """The range, or the end of the scan, is another process's by now."""


class ParallelScan:
    """This process's part in one whole scan. ``report`` adds up all ranges, also those of others."""

    def __init__(
        self,
        comparison: Comparison,
        stores: Mapping[Side, ObjectStore],
        state: State,
        clock: Clock,
        plan: Plan,
        *,
        owner: str,
        parallel: int,
        save_rows: int,
        save_seconds: float,
        asked: bool = False,
        on_progress: Callable[[Report], None] | None = None,
    ) -> None:
        self.plan = plan
        self._asked = asked
        self._comparison = comparison
        self._stores = stores
        self._state = state
        self._clock = clock
        self._book = Book(state)
        self._owner = owner
        self._parallel = parallel
        self._save_rows = save_rows
        self._on_progress = on_progress
        self._save_seconds = save_seconds
        self._told = self._began = clock.monotonic_seconds()
        self._progress: dict[int, Progress] = {}
        self._kept: dict[int, Place] = {}
        """How far each range is in the state, as this process knows it."""
        self._written = False
        self._failed = False
        self._trusted: set[Side] = set()
        """Sides whose listings begin in their middle, because somebody saw before that names are keys, in order."""

    @property
    def report(self) -> Report:
        """Of the whole scan, as far as it is."""
        return merged(self.plan, self._progress)

    @property
    def seen(self) -> list[bytes]:
        """What the sweep has to know of each range."""
        return [one.seen for one in self._progress.values()]

    @property
    def withheld(self) -> list[Gone]:
        """Deletes that no range has marked, in an order that is the same for whoever goes on."""
        return [gone for _, one in sorted(self._progress.items()) for gone in one.withheld]

    async def run(self) -> bool:
        """Scan until no range is left; True when this process has to finish the scan, False when another finished it.

        Raises what stopped a range; what was saved of it, and the other ranges, stay for the next run.
        """
        await self._begin()
        while True:
            if self._written and not await self._planned():
                return False  # what others saved of it is gone with it, and would be scanned again
            await self._reload()
            left = [number for number in range(len(self.plan.ranges)) if not self._done(number)]
            if not left:
                return await self.may_finish()
            if not await self._work(left):
                await self._clock.sleep(POLL_SECONDS)

    async def cut_next(self, range_rows: int) -> None:
        """Leave the boundaries for the next scan. A listing may start anywhere only where names are keys, in order."""
        ranges = [self._progress[number].samples for number in range(len(self.plan.ranges))]
        bounds = boundaries(ranges, rows_a_range=range_rows)
        cuts = await self._book.cuts() + 1 if self.plan.bounds else 0
        if cuts >= MOST_CUTS or not all(store.ordered for store in self._stores.values()):
            bounds = []
        await self._book.write_cuts(cuts)
        if bounds != self.plan.bounds:
            await self._book.write_bounds(bounds)

    async def may_finish(self) -> bool:
        """Whether this process has to finish the scan; waits while another does. False: it did."""
        while self._written:
            if not await self._planned():
                return False
            if await self._state.own(FINISHING, owner=self._owner, ttl_seconds=FINISH_SECONDS):
                if await self._planned():
                    return True
                await self._state.disown(FINISHING, owner=self._owner)  # it ended just now; the next scan's end is anybody's
                return False
            await self._clock.sleep(POLL_SECONDS)
        return True

    async def finish(self) -> Finish:
        """The end of the scan, as far as it was saved."""
        saved = await self._book.finish(self.plan) if self._written else None
        return saved or Finish(scan=self.plan.scan, report=self.report)

    async def save_finish(self, finish: Finish) -> None:
        """Keep how far the end is. A long scan that was not written down is from then on. Raises LostError."""
        if not self._written and self._long:
            for number, progress in self._progress.items():
                await self._save(number, progress)
                await self._give_back(number)
        if self._written:  # else as in ``_save``
            await self.hold_finish()
            await self._state.keep_marks(self.plan.ground.task)
            await self._book.save_finish(finish)

    async def hold_finish(self) -> None:
        """See that nobody else is at the end of the scan, or did it while this process was stopped. Raises LostError."""
        if self._written:
            owns = await self._state.own(FINISHING, owner=self._owner, ttl_seconds=FINISH_SECONDS)
            if not owns or not await self._planned():
                raise LostError

    async def require_ground(self) -> None:
        """Raises RetryLater when the state or marks were lost under the scan; then the next begins anew."""
        try:
            await self.plan.ground.require(self._state, self._clock)
        except RetryLater as error:
            if self._written and error.reason in LOST:
                await self._book.drop_plan(self.plan)
            raise

    async def end(self, *, over: bool) -> None:
        """Let others finish the scan, or, when it is *over*, forget it."""
        if self._written and over:
            await self._book.drop_plan(self.plan)
        if self._written:
            await self._state.disown(FINISHING, owner=self._owner)
        else:
            await self._state.drop_marks(self.plan.ground.task)

    # ---------------------------------------------------------------------------------------------------------------- plan

    async def _begin(self) -> None:
        known = await self._book.plan()
        while known is None and self.plan.bounds and not await self._write_plan():
            await self._clock.sleep(POLL_SECONDS)
            known = await self._book.plan()
        if known is not None:
            self.plan, self._written = known, True
        await self._state.keep_marks(self.plan.ground.task)  # before the first: who sends no heartbeat is not forgotten
        if self.plan.bounds:
            self._trust(Side)  # as the last whole scan saw it
        if self._written:
            await self._reload()
            await self._comparison.check_sides()

    def _trust(self, sides: Iterable[Side]) -> None:
        """Let listings begin anywhere; one that sees otherwise says so."""
        for side in sides:
            if side not in self._trusted:
                self._trusted.add(side)
                self._stores[side].ordered = True

    async def _write_plan(self) -> bool:
        """From now on others may help; False when another writes one, or wrote one."""
        if not await self._state.own(PLANNING, owner=self._owner, ttl_seconds=OWNED_SECONDS):
            return False
        try:
            if await self._book.plan() is None:
                await self._book.write_plan(self.plan)
                self._written = True
        finally:
            await self._state.disown(PLANNING, owner=self._owner)
        return self._written

    async def _planned(self) -> bool:
        plan = await self._book.plan()
        return plan is not None and plan.scan == self.plan.scan

    async def _reload(self) -> None:
        """What others did meanwhile, while this process scans nothing."""
        for number in range(len(self.plan.ranges) if self._written else 0):
            if not self._done(number):
                await self._load(number)

    async def _load(self, number: int) -> None:
        saved = await self._book.progress(self.plan, number)
        self._kept[number] = _place(saved)
        if saved is not None:
            self._progress[number] = saved
            self._trust(saved.ordered)

    @property
    def _long(self) -> bool:
        """Whether it would be a pity to begin the scan anew."""
        return self._clock.monotonic_seconds() - self._began >= self._save_seconds

    def _done(self, number: int) -> bool:
        return number in self._progress and self._progress[number].done

    # -------------------------------------------------------------------------------------------------------------- ranges

    async def _work(self, left: list[int]) -> bool:
        """Scan of *left* what nobody owns; False when that is nothing."""
        waiting = list(reversed(left))
        if len(left) == 1:
            return await self._help(waiting)
        results = await asyncio.gather(*(self._help(waiting) for _ in range(self._parallel)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return True in results

    async def _help(self, waiting: list[int]) -> bool:
        """One task: range after range. After a failure the others end theirs and take no more."""
        worked = False
        while waiting and not self._failed:
            number = waiting.pop()
            if not await self._take(number):
                continue
            try:
                await self._scan_range(number)
                worked = True
            except LostError:
                self._progress.pop(number, None)
            except FederationError:
                self._failed = True
                raise
            finally:
                await self._give_back(number)
        return worked

    async def _take(self, number: int) -> bool:
        if not self._written:
            return True
        if not await self._state.own(range_task(number), owner=self._owner, ttl_seconds=OWNED_SECONDS):
            return False
        await self._load(number)  # as its last owner left it
        if self._done(number):
            await self._give_back(number)
            return False
        return True

    async def _give_back(self, number: int) -> None:
        if self._written:
            with contextlib.suppress(RetryLater):  # then it grows old by itself
                await self._state.disown(range_task(number), owner=self._owner)

    async def _scan_range(self, number: int) -> None:
        progress = self._progress.get(number) or self.plan.begun(number)
        progress.report.resumed += bool(progress.report.resume)
        self._progress[number] = progress
        saved_rows, saved_at = progress.samples.rows, self._clock.monotonic_seconds()

        async def after_batch(batch: Batch, bases: Sequence[Base | None]) -> None:
            nonlocal saved_rows, saved_at
            progress.samples.add(batch.keys)
            progress.seen += sweep.remember(self.plan.turn, self._state, batch.keys, bases)
            now = self._clock.monotonic_seconds()
            self._tell(now)
            due = now - saved_at > OWNED_SECONDS / 3 and (self._written or self._long)
            if due or progress.samples.rows - saved_rows >= self._save_rows:
                await self._save(number, progress)
                saved_rows, saved_at = progress.samples.rows, now

        async def anew() -> None:
            nonlocal saved_rows
            saved_rows, progress.samples, progress.seen = 0, Samples(), b""
            if self._written:
                await self._save(number, progress)

        try:
            await self._comparison.compare_span(progress.report, progress.withheld, after_batch, anew)
        except RetryLater as error:
            if error.reason == LISTING_ORDER:
                await self._start_over()
            raise
        await self._require_names_in_order()
        progress.report.complete = True
        if self._written:
            await self._save(number, progress)
        self._tell(self._clock.monotonic_seconds() + TELL_SECONDS)

    async def _require_names_in_order(self) -> None:
        """A range is only whole if names are keys in order; else the next scan is one range again."""
        if not all(self._stores[side].ordered for side in self._trusted):
            await self._start_over()
            raise RetryLater("a listing is no longer in the order of its keys; scan anew as one range", reason=LISTING_ORDER)

    async def _start_over(self) -> None:
        """What was known of the order does not hold: the next scan begins at the first key and finds out."""
        await self._book.write_bounds([])
        await self._book.drop_plan(self.plan)

    async def _save(self, number: int, progress: Progress) -> None:
        """Keep how far the range is. The first save of a scan that was not written down does that. Raises LostError."""
        if not self._written and not await self._write_plan():
            return  # another process's scan is written down: this one goes on by itself
        if not await self._state.own(range_task(number), owner=self._owner, ttl_seconds=OWNED_SECONDS):
            raise LostError
        # Who was stopped for longer than it owned the range owns it again now, though others went on with it, or ended the scan.
        if not await self._planned() or _place(await self._book.progress(self.plan, number)) != self._kept.get(number):
            raise LostError
        if self._asked:
            progress.asked_us = self._clock.now_us()
        progress.ordered = [side for side, store in self._stores.items() if store.ordered]
        await self._state.keep_marks(self.plan.ground.task)
        await self._book.save(number, progress)
        self._kept[number] = _place(progress)

    def _tell(self, now: float) -> None:
        if self._on_progress is not None and now - self._told >= TELL_SECONDS:
            self._told = now
            self._on_progress(self.report)


def _place(progress: Progress | None) -> Place:
    return (progress.report.resume, progress.done) if progress is not None else None
