"""Scan a pair: all of it, in ranges that several tasks and processes take and that survive a crash, or what is below a prefix."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex

from federation.errors import FederationError, Halt, RetryLater
from federation.model import Side
from federation.ports import ChangeSink, Clock, ObjectStore, State
from federation.progress import UNION_NOTE, DeleteBudget, HaltRecord
from federation.rules.guards import MAY_BE_EMPTY, SELF_LIFTING_HALTS
from federation.sync.preserve import relist
from reconciler import sweep
from reconciler.book import COMPLETE, FINISHING, LAST, PAST, SCANNING, Book, kept, whole_scans
from reconciler.comparison import Comparison, Guard
from reconciler.finishing import Finishing
from reconciler.ground import SCAN_TASK, ground, wait_out_gap
from reconciler.parallel import OWNED_SECONDS, LostError, ParallelScan
from reconciler.ranges import Plan
from reconciler.report import Report
from reconciler.scoped import KEPT_US, ScopedScan
from reconciler.sweep import SWEEPS
from reconciler.withheld import Gone

__all__ = ["COMPLETE", "LAST", "PAST", "SWEEPS", "ScanOptions", "Scanner", "kept", "whole_scans"]

_LOOK_SECONDS = 0.5
MOST_UNSAVED_ROWS = 20_000
MOST_UNSAVED_SECONDS = 60.0

Progress = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How a pair is scanned. ``owner``: of the ranges that this process takes; empty: made up."""

    owner: str = ""
    range_rows: int = 200_000
    """Rows of one range, about; a pair of fewer than two such ranges is scanned as one."""
    parallel: int = 4
    """Ranges that this process scans at a time."""
    save_rows: int = MOST_UNSAVED_ROWS
    """Rows after which a range's progress is kept."""
    save_seconds: float = MOST_UNSAVED_SECONDS
    """A scan that takes longer is kept too, however few its rows."""
    yields: bool = False
    """Give way to changes that a worker applies meanwhile."""
    asked: bool = False
    """For a command: who asked wants to know how it is now, and may end it and ask again."""


class Scanner(Comparison):
    """Scans one pair. *sink* is where marks go (it wakes the worker); *state* answers questions."""

    def __init__(
        self,
        stores: Mapping[Side, ObjectStore],
        state: State,
        sink: ChangeSink,
        clock: Clock,
        *,
        quiet_us: int,
        tombstone_us: int,
        tellers: Mapping[Side, str] | None = None,
        options: ScanOptions | None = None,
        delete_budget: DeleteBudget | None = None,
        guard: Guard | None = None,
    ) -> None:
        """*guard* runs before each scan and before its deletes are marked."""
        self.options = options or ScanOptions()
        yields = self.options.yields
        super().__init__(
            stores,
            state,
            sink,
            clock,
            quiet_us=quiet_us,
            tellers=tellers,
            yields=yields,
            delete_budget=delete_budget,
            guard=guard,
        )
        self._tombstone_us = tombstone_us
        self._owner = self.options.owner or token_hex(4)
        self._book = Book(state)
        self._another_s = False
        """Whether the scan under way was found to be a living command's."""

    async def help_wanted(self) -> bool:
        """Whether a scan that was written down is not finished: somebody may help, or go on after a crash."""
        return await self._book.plan() is not None

    async def cut_off(self) -> bool:
        """Whether the scan under way is one that a command asked for and that was cut off just now: to ask again is to go on.

        Not one that somebody still works on, whose asking was before ours. Who was killed owns a range for a while: that is
        waited for; its end is owned too long for that, and counts as somebody's.
        """
        until_seconds = self._clock.monotonic_seconds() + OWNED_SECONDS
        while await self._asked_lately() and (owners := await self._state.owners(SCANNING)):
            if FINISHING in owners or self._clock.monotonic_seconds() > until_seconds:
                self._another_s = True
                break
            await self._clock.sleep(_LOOK_SECONDS)
        return not self._another_s and await self._asked_lately()

    async def _asked_lately(self) -> bool:
        return self._clock.now_us() - await self._book.asked_us() <= KEPT_US

    @property
    def state(self) -> State:
        """Of the pair."""
        return self._state

    async def scan(self, *, prefix: str = "", on_progress: Progress | None = None, resumes: bool = False) -> Report:
        """Compare all keys under *prefix* and mark every difference.

        A scan of the whole pair joins the one under way, or goes on with one that was cut off. The report is kept. A failing
        listing stops its range: the report then is incomplete and says why, and nothing is concluded from what was not reached
        (rule 3). A side found empty as a whole halts the pair instead of marking deletes. With *resumes* a scan of a prefix is
        kept as it goes, and goes on with one of that prefix that was cut off.
        """
        report = Report(started_us=self._clock.now_us(), prefix=prefix, fresh_state=bool(await self._state.note(UNION_NOTE)))
        parallel: ParallelScan | None = None
        scoped: ScopedScan | None = None
        overtaken = False
        try:
            if self._guard is not None:
                await self._guard()
            if prefix:
                scoped = self._scoped(report, on_progress, resumes=resumes)
                report = await scoped.begin()
                await scoped.run()
                await self._deletes.mark(report, scoped.withheld)
                await scoped.end()
            else:
                parallel = await self._parallel(report, on_progress)
                overtaken = not await parallel.run()
                report = parallel.report
                if not overtaken:
                    overtaken, report = await self._finish(parallel)
        except FederationError as error:
            if parallel is not None:
                report = parallel.report
            report.complete = False
            await self._say_why(report, error)
        except asyncio.CancelledError:
            if parallel is not None:
                with contextlib.suppress(RetryLater):  # then others may finish it once that grew old
                    await parallel.end(over=False)
            raise
        finally:
            if scoped is not None:
                with contextlib.suppress(RetryLater):  # then what it kept is forgotten by its age
                    await scoped.leave()
        return await self._by_another(report) if overtaken else await self._kept(report, parallel)

    async def scan_keys(self, keys: Sequence[str]) -> Report:
        """Compare *keys* alone, however large the pair is, by looking at each on both sides, and mark every difference.

        The report is kept. A look that fails makes it incomplete.
        """
        report = Report(started_us=self._clock.now_us(), keys=len(set(keys)))
        try:
            if self._guard is not None:
                await self._guard()
            withheld: list[Gone] = []
            rests_on = await ground(self._state)
            await self._state.keep_marks(rests_on.task)
            await self.compare_keys(keys, report, withheld)
            await self._deletes.mark(report, withheld)
            await rests_on.require(self._state, self._clock)
            await self._state.drop_marks(rests_on.task)
            report.complete = True
        except FederationError as error:
            await self._say_why(report, error)
        return await self._kept(report, None)

    async def _say_why(self, report: Report, error: FederationError) -> None:
        report.error, report.passing = str(error), isinstance(error, RetryLater)
        report.after_seconds = error.after_seconds if isinstance(error, RetryLater) else None
        if isinstance(error, Halt):
            report.halted = error.reason
            lifts_itself = error.reason in SELF_LIFTING_HALTS
            await self._state.halt(HaltRecord(error.reason, str(error), self._clock.now_us(), self_lifting=lifts_itself))

    async def _kept(self, report: Report, parallel: ParallelScan | None) -> Report:
        report.finished_us = self._clock.now_us()
        await self._book.keep(report)
        if report.whole:
            for side in Side:
                if report.listed[side]:  # a side that is still empty stays as the person saw it: its deletes may be held
                    await self._state.put_note(f"{MAY_BE_EMPTY}{side}", b"")
            if report.fresh_state and parallel is not None:  # a base that was lost under way is not rebuilt by this scan
                await self._state.drop_note(UNION_NOTE, parallel.plan.union.encode())
        if parallel is not None:
            await parallel.end(over=report.whole)
        return report

    async def _by_another(self, report: Report) -> Report:
        """The report of the process that finished the scan."""
        last = await kept(self._state, COMPLETE)
        if last is not None and last.scan == report.scan:
            return last
        report.complete, report.passing = False, True
        report.error = "the scan's plan is gone: the state was lost, or the scan was begun anew"
        return await self._kept(report, None)

    def _scoped(self, report: Report, on_progress: Progress | None, *, resumes: bool) -> ScopedScan:
        return ScopedScan(
            self,
            self._stores,
            self._state,
            self._clock,
            report,
            resumes=resumes,
            save_rows=self.options.save_rows,
            save_seconds=self.options.save_seconds,
            on_progress=on_progress,
        )

    async def _parallel(self, report: Report, on_progress: Progress | None) -> ParallelScan:
        """This process's part in the scan under way, else in a new one cut as the last whole scan left it."""
        plan, asked = await self._book.plan(), self.options.asked
        if plan is not None:
            asked = asked and not self._another_s and await self._asked_lately()  # an old one is ended, and stays old
        else:
            turn = await sweep.turn(self._state, (await self._state.backlog()).objects)
            await wait_out_gap(self._state, self._clock)
            report.started_us, rests_on = self._clock.now_us(), await ground(self._state)
            plan = Plan(
                scan=rests_on.task.removeprefix(SCAN_TASK),
                started_us=report.started_us,
                fresh_state=bool(rests_on.union),
                turn=turn,
                bounds=await self._book.bounds(),
                union=rests_on.union,
                gap=rests_on.gap,
                asked=asked,
            )
        return ParallelScan(
            self,
            self._stores,
            self._state,
            self._clock,
            plan,
            owner=self._owner,
            parallel=self.options.parallel,
            save_rows=self.options.save_rows,
            save_seconds=self.options.save_seconds,
            asked=asked,
            on_progress=on_progress,
        )

    async def _finish(self, parallel: ParallelScan) -> tuple[bool, Report]:
        """What a scan of the whole pair does at its end, by one process at a time. Whether another did it, and the report."""
        while True:
            finish = await parallel.finish()
            finish.report.complete = False
            finishing = Finishing(
                finish,
                parallel.save_finish,
                self._state,
                self._sink,
                self._clock,
                self._deletes,
                self._relist,
                tombstone_us=self._tombstone_us,
            )
            try:
                await finishing.run(parallel.withheld, parallel.plan.turn, parallel.seen)
                await parallel.hold_finish()
            except LostError:
                if await parallel.may_finish():
                    continue
                return True, finish.report
            await parallel.cut_next(self.options.range_rows)
            await parallel.require_ground()
            finish.report.complete = True
            return False, finish.report

    async def _relist(self, since: tuple[Side, str], told: Callable[[Side, str, bool], Awaitable[None]]) -> int:
        return await relist(self._stores, self._state, self._clock, since, told)
