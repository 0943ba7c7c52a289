"""Compare both listings with the base and mark what differs (design 7). It only finds; the worker decides by the same rules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec

from federation.errors import FederationError, Halt
from federation.model import Base, ListEntry, Side
from federation.ports import ChangeSink, Clock, ObjectStore, State
from federation.progress import UNION_NOTE, HaltRecord
from federation.rules.guards import SELF_LIFTING_HALTS, SIDE_EMPTIED, side_emptied
from federation.sync.preserve import relist
from reconciler.drift import Drift, News, changes, drift, news
from reconciler.merge import Row, merge
from reconciler.report import Report

BATCH = 500
"""Rows whose bases are looked up, and whose changes are marked, in one round."""
HISTORY = 50
SWEEPS = 16
"""Whole scans after which every shard's tombstones were looked through."""
RECENT_US = 2_000_000
"""A change younger than this may still be announced by its event."""
MAY_BE_EMPTY = "may_be_empty:"
"""Note, by side: the next whole scan may find it empty; its deletes then go through the delete budget as any others."""
NEXT_SWEEP = "tombstones:next"
"""Note: the shard whose tombstones are looked through next."""
LAST, COMPLETE, PAST = "scan:last", "scan:complete", "scan:history"
"""Names of the notes: last report, last complete report of the whole pair, history."""

Progress = Callable[[Report], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not as agreed."""

    row: Row
    base: Base | None
    kind: Drift


class Scanner:
    """Scans one pair. *sink* is where marks go (it wakes the worker); *state* answers questions."""

    def __init__(
        self,
        stores: dict[Side, ObjectStore],
        state: State,
        sink: ChangeSink,
        clock: Clock,
        *,
        quiet_us: int,
        tombstone_us: int,
    ) -> None:
        self._stores = stores
        self._state = state
        self._sink = sink
        self._clock = clock
        self._quiet_us = quiet_us
        self._tombstone_us = tombstone_us

    @property
    def state(self) -> State:
        """Of the pair."""
        return self._state

    async def scan(self, *, prefix: str = "", on_progress: Progress | None = None) -> Report:
        """Compare all keys under *prefix* and mark every difference.

        The report is kept. A failing listing stops the scan: the report then is incomplete and says why, and nothing is
        concluded from what was not reached (rule 3). A side found empty as a whole halts the pair instead of marking deletes.
        """
        report = Report(started_us=self._clock.now_us(), prefix=prefix, fresh_state=bool(await self._state.note(UNION_NOTE)))
        try:
            async for batch in self._differences(prefix, report):
                await self._mark(batch, report)
                if on_progress is not None:
                    on_progress(report)
            if not prefix:
                report.relisted = await relist(self._stores, self._state, self._clock)
            report.complete = True
        except Halt as error:
            report.halted = error.reason
            report.error = str(error)
            lifts_itself = error.reason in SELF_LIFTING_HALTS
            await self._state.halt(HaltRecord(error.reason, str(error), self._clock.now_us(), self_lifting=lifts_itself))
        except FederationError as error:
            report.error = str(error)
        report.finished_us = self._clock.now_us()
        if report.whole:
            await self._forget_tombstones(report)
        await self._keep(report)
        return report

    async def differences(self, *, prefix: str = "") -> AsyncIterator[Difference]:
        """Every difference, marking and recording nothing: for dry runs. Raises what the listings raise."""
        async for batch in self._differences(prefix, Report(started_us=self._clock.now_us())):
            for difference in batch:
                yield difference

    async def _differences(self, prefix: str, report: Report) -> AsyncIterator[list[Difference]]:
        blob, vast = self._listing(Side.BLOB, prefix, report), self._listing(Side.VAST, prefix, report)
        first = {Side.BLOB: await anext(blob, None), Side.VAST: await anext(vast, None)}
        if not prefix:
            await self._require_sides(first)
        rows: list[Row] = []
        async for row in merge(_put_back(first[Side.BLOB], blob), _put_back(first[Side.VAST], vast)):
            rows.append(row)
            if len(rows) >= BATCH:
                yield await self._compare(rows, report)
                rows = []
        yield await self._compare(rows, report)

    async def _require_sides(self, first: dict[Side, ListEntry | None]) -> None:
        """Halt when one side lists nothing at all while the base knows objects and the other side has some (rule 8)."""
        for side in Side:
            if await self._state.note(f"{MAY_BE_EMPTY}{side}"):
                continue  # a person looked and lifted the halt
            listed = 0 if first[side] is None else 1
            if first[side.other] is not None and side_emptied(listed, (await self._state.backlog()).objects):
                raise Halt(
                    f"the {side} side lists no object at all, yet the base knows some. Nothing was deleted. If it was emptied on "
                    f"purpose: fedplane lift {SIDE_EMPTIED}_{side}",
                    reason=f"{SIDE_EMPTIED}_{side}",
                    side=side,
                )

    async def _listing(self, side: Side, prefix: str, report: Report) -> AsyncIterator[ListEntry]:
        async for entry in self._stores[side].list(prefix=prefix):
            report.listed[side] += 1
            yield entry

    async def _compare(self, rows: list[Row], report: Report) -> list[Difference]:
        bases = await self._state.bases([row.key for row in rows]) if rows else []
        found = []
        for row, base in zip(rows, bases, strict=True):
            kind = drift(row, base)
            if kind is None:
                report.in_step += 1
            else:
                report.drift[kind] = report.drift.get(kind, 0) + 1
                found.append(Difference(row, base, kind))
        return found

    async def _mark(self, batch: list[Difference], report: Report) -> None:
        if not batch:
            return
        dirty = await self._state.are_dirty([difference.row.key for difference in batch])
        vast_ahead_us = (await self._stores[Side.VAST].clock_skew()).us
        marks = []
        for difference, known in zip(batch, dirty, strict=True):
            self._blame(difference, report, known=known)
            young_until_us = self._young_until(difference.row.vast, difference.base, vast_ahead_us)
            report.young += young_until_us > 0
            marks += changes(difference.row, difference.base, young_until_us=young_until_us)
        report.marked += (await self._sink.mark(marks)).marked

    def _blame(self, difference: Difference, report: Report, *, known: bool) -> None:
        """Say which source should have told us."""
        if difference.kind is Drift.UNVERIFIED:
            return
        if known:
            report.in_flight += 1
            return
        now = self._clock.now_us()
        for side in Side:
            entry = difference.row.of(side)
            what = news(entry, difference.base, side)
            if what not in (News.CHANGED, News.GONE):
                continue
            if entry is not None and now - entry.modified.at_us - entry.modified.precision_us < RECENT_US:
                report.recent += 1
            else:
                report.missed_by_events[side] += 1

    def _young_until(self, entry: ListEntry | None, base: Base | None, vast_ahead_us: int) -> int:
        """Our time until which the VAST version may still be being written; 0 when it is quiet or agreed."""
        if entry is None or news(entry, base, Side.VAST) is not News.CHANGED:
            return 0
        until = entry.modified.at_us + entry.modified.precision_us + self._quiet_us - vast_ahead_us
        return until if until > self._clock.now_us() else 0

    async def _forget_tombstones(self, report: Report) -> None:
        """Drop what both sides agreed is gone longer ago than any source may tell of; some shards a scan, so that it stays cheap.

        A tombstone is in no listing. Without it the same would be done (tests/unit/test_decide_cells.py), at the price of a look.
        """
        packed = await self._state.note(NEXT_SWEEP)
        first = int(packed) if packed else 0
        many = -(-self._state.shards // SWEEPS)
        for step in range(many):
            shard = (first + step) % self._state.shards
            before_us = report.started_us - self._tombstone_us
            report.forgotten += await self._state.forget_tombstones(shard, before_us=before_us)
        await self._state.put_note(NEXT_SWEEP, str((first + many) % self._state.shards).encode())

    async def _keep(self, report: Report) -> None:
        packed = msgspec.json.encode(report)
        await self._state.put_note(LAST, packed)
        past = await self._state.note(PAST)
        reports = msgspec.json.decode(past, type=list[msgspec.Raw]) if past else []
        await self._state.put_note(PAST, msgspec.json.encode([*reports, msgspec.Raw(packed)][-HISTORY:]))
        if report.whole:
            for side in Side:
                await self._state.put_note(f"{MAY_BE_EMPTY}{side}", b"")
            await self._state.put_note(COMPLETE, packed)
            await self._state.put_note(UNION_NOTE, b"")


async def _put_back(first: ListEntry | None, rest: AsyncIterator[ListEntry]) -> AsyncIterator[ListEntry]:
    if first is not None:
        yield first
        async for entry in rest:
            yield entry


async def whole_scans(state: State) -> list[Report]:
    """The kept reports of scans that compared the whole pair to the end, oldest first."""
    past = await state.note(PAST)
    return [report for report in (msgspec.json.decode(past, type=list[Report]) if past else []) if report.whole]


async def kept(state: State, name: str) -> Report | None:
    """A kept report: LAST or COMPLETE."""
    packed = await state.note(name)
    return msgspec.json.decode(packed, type=Report) if packed else None
