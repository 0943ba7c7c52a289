"""Compare one span of both listings with the base and mark what differs. It only finds; the worker decides by the same rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from operator import or_

from federation.errors import Halt, NotPresent
from federation.keys import excluded, excluded_below
from federation.model import Base, Change, ETagKind, ListEntry, Side, Source, s3_etag_kind
from federation.nameless import Ear, heard
from federation.ports import ChangeSink, Clock, ObjectStore, State
from federation.progress import DeleteBudget
from federation.rules.guards import MAY_BE_EMPTY, side_emptied
from federation.sorting import sort_entries
from federation.sync.identity import emptied
from reconciler.drift import Drift, News, changes, drift, news, out_of_step
from reconciler.merge import Batch, Pages, Row, in_pages, merge
from reconciler.report import Report
from reconciler.seams import LISTING_ORDER, in_span
from reconciler.share import Share
from reconciler.withheld import Gone, Withheld

BATCH = 1000
"""Entries of a listing that are merged, looked up and marked in one round."""
RECENT_US = 2_000_000
"""A change younger than this may still be announced by its event."""
FEED_RECENT_US = 900_000_000
"""The same where the change feed tells of it, which is minutes late."""
LOOKS = 32
"""Given keys that are looked at on both sides at a time."""
_PAGE_AGE_US = 600_000_000
"""A page is compared sooner than this after it was listed."""
_DELETED = frozenset({Drift.DELETED_BLOB, Drift.DELETED_VAST})
FILE_WRITES = "no source: written as a file"
NO_SOURCE = "no source is set up"

Guard = Callable[[], Awaitable[None]]
AfterBatch = Callable[[Batch, Sequence[Base | None]], Awaitable[None]]
Anew = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not as agreed."""

    row: Row
    base: Base | None
    kind: Drift


class Comparison:
    """The steps of a scan over one pair. *sink* is where marks go (it wakes the worker); *state* answers questions."""

    def __init__(
        self,
        stores: Mapping[Side, ObjectStore],
        state: State,
        sink: ChangeSink,
        clock: Clock,
        *,
        quiet_us: int,
        tellers: Mapping[Side, str] | None = None,
        yields: bool = False,
        delete_budget: DeleteBudget | None = None,
        guard: Guard | None = None,
    ) -> None:
        """*tellers*: which source should tell of changes of each side. *yields*: give way to changes that a worker applies.

        *guard* raises Halt when the pair must not be compared.
        """
        self._stores = dict(stores)
        self._state = state
        self._sink = sink
        self._clock = clock
        self._quiet_us = quiet_us
        self._tellers = tellers or {}
        self._guard = guard
        self._deletes = Withheld(state, sink, delete_budget, self._still_there)
        self._share = Share(state, clock) if yields else None

    async def compare_span(
        self, report: Report, withheld: list[Gone], after_batch: AfterBatch | None = None, anew: Anew | None = None
    ) -> None:
        """Compare what *report* spans, from its ``resume`` key on, and mark the differences; deletes go to *withheld* instead.

        Marks are durable before ``resume`` moves and *after_batch* is called (rule 6). Where a listing turns out not
        to be in order, all is begun anew (*anew* is called), sorted on disk first: behind any key there may be one that sorts
        before it. Raises what the listings and the state raise; then nothing may be concluded from what was not reached (rule 3).
        """
        listening = heard.set(Ear(report.unaddressable, report.after, report.until, report.reordered))
        try:
            while True:
                try:
                    return await self._compare_span(report, withheld, after_batch)
                except Halt as error:
                    if error.reason != LISTING_ORDER or error.side is None or error.side in report.sorted_sides:
                        raise
                    report.sorted_sides.append(error.side)
                    report.begin_anew()
                    withheld.clear()
                    if anew is not None:
                        await anew()
        finally:
            heard.reset(listening)

    async def _compare_span(self, report: Report, withheld: list[Gone], after_batch: AfterBatch | None) -> None:
        async with aclosing(self._rows(report)) as batches:
            async for batch in batches:
                bases, found = await self._compare(batch, report)
                await self._mark(found, report, withheld)
                report.resume = batch.keys[-1]
                report.listed_to |= batch.last()
                if after_batch is not None:
                    await after_batch(batch, bases)
                if self._share is not None:
                    await self._share.give_way()

    async def compare_keys(self, keys: Sequence[str], report: Report, withheld: list[Gone]) -> None:
        """The same for *keys* alone, each looked at on both sides."""
        async with aclosing(self._looked_at(keys)) as batches:
            async for batch in batches:
                _, found = await self._compare(batch, report)
                await self._mark(found, report, withheld)

    async def differences(self, report: Report | None = None, *, keys: Sequence[str] = ()) -> AsyncGenerator[Difference, None]:
        """Every difference below *report*'s prefix, or those of *keys*, marking and recording nothing: for dry runs.

        Asked again with the same *report*, it goes on after the last that was taken. Raises what the stores raise, and Halt as a
        scan does: at its begin, or at its end where deletes were among them.
        """
        if self._guard is not None:
            await self._guard()
        report = report or Report(started_us=self._clock.now_us())
        left = [key for key in keys if key > report.resume]
        async with aclosing(self._looked_at(left) if keys else self._rows(report)) as batches:
            async for batch in batches:
                for difference in (await self._compare(batch, report))[1]:
                    yield difference
                    report.resume = difference.row.key
                report.resume = batch.keys[-1]
                report.listed_to |= batch.last()
        if report.drift.keys() & {Drift.DELETED_BLOB, Drift.DELETED_VAST}:
            await self._still_there()

    # ------------------------------------------------------------------------------------------------------------ listings

    async def _rows(self, report: Report) -> AsyncGenerator[Batch, None]:
        """The rows of the span that are left; a scan of the whole pair first looks whether a side was emptied.

        None below a prefix that is never synchronised, whoever asked: stores list it to the plane itself (design 4.4).
        """
        if excluded_below(report.prefix):
            return
        whole = not (report.prefix or report.after or report.until or report.resume)
        # Before the listings: what is agreed on while they are read may be on a side that was empty when it was asked.
        known = (await self._state.backlog()).objects if whole else 0
        async with (
            aclosing(self._listing(Side.BLOB, report.prefix, report)) as blob,
            aclosing(self._listing(Side.VAST, report.prefix, report)) as vast,
        ):
            first = {Side.BLOB: await anext(blob, None), Side.VAST: await anext(vast, None)}
            if whole:
                await self._require_sides({side: entry is not None for side, entry in first.items()}, known)
            async for batch in merge(_pages(first[Side.BLOB], blob), _pages(first[Side.VAST], vast)):
                yield batch

    async def _looked_at(self, keys: Sequence[str]) -> AsyncGenerator[Batch, None]:
        """Rows of *keys*, a few at a time; those that neither side holds are rows too, what is never synchronised is none."""
        wanted = sorted({key for key in keys if not excluded(key)})
        for at in range(0, len(wanted), LOOKS):
            part = wanted[at : at + LOOKS]
            looks = [entry_of(self._stores[side], key) for side in Side for key in part]
            entries = await asyncio.gather(*looks)
            sides = dict(zip(Side, (entries[: len(part)], entries[len(part) :]), strict=True))
            yield Batch(part, list(sides[Side.BLOB]), list(sides[Side.VAST]))

    async def check_sides(self) -> None:
        """Look whether a side was emptied: where a scan does not begin at the first key, and before its deletes are marked.

        Raises Halt, and as listings do.
        """
        known = (await self._state.backlog()).objects
        await self._require_sides({side: await store.holds_any() for side, store in self._stores.items()}, known)

    async def _still_there(self) -> None:
        """What the listings did not name counts as gone only if both sides are there, and the pair's own, after they ended."""
        if self._guard is not None:
            await self._guard()
        await self.check_sides()

    async def _listing(self, side: Side, prefix: str, report: Report) -> AsyncGenerator[ListEntry, None]:
        if side in report.sorted_sides:  # a server with an order of its own may start anywhere: all of it is read
            entries = _until(sort_entries(self._stores[side].list(prefix=prefix)), report.until)
        else:
            # From its own last key: where the server sorts a key that only the other side has is not known.
            after = report.listed_to.get(side, report.after)
            entries = in_span(self._stores[side], prefix=prefix, after=after, until=report.until)
        after = report.resume or report.after
        async with aclosing(entries):
            async for entry in entries:
                if entry.key > after:
                    yield entry

    async def _require_sides(self, holds: Mapping[Side, bool], known: int) -> None:
        """Halt when one side lists nothing while the base held *known* objects before, and the other side has some (rule 8)."""
        for side in Side:
            if await self._state.note(f"{MAY_BE_EMPTY}{side}"):
                continue  # a person looked and lifted the halt
            if holds[side.other] and side_emptied(int(holds[side]), known):
                raise emptied(side)

    # ---------------------------------------------------------------------------------------------------------- comparison

    async def _compare(self, batch: Batch, report: Report) -> tuple[Sequence[Base | None], list[Difference]]:
        bases = await self._state.bases(batch.keys)
        skew_us = (await self._stores[Side.VAST].clock_skew()).us
        now_us = self._clock.now_us() + skew_us
        begun_us = max(report.started_us + skew_us, now_us - _PAGE_AGE_US)
        found = []
        for at in out_of_step(batch, bases):
            row, base = batch.row(at), bases[at]
            kind = drift(row, base)
            if kind in _DELETED and base is not None and begun_us <= base.vast_as_of_us <= now_us:
                # Agreed on while we scan: the page that lacks it may be older. So many copies would look like a mass delete.
                kind = Drift.UNVERIFIED
            if kind is not None:
                report.drift[kind] = report.drift.get(kind, 0) + 1
                found.append(Difference(row, base, kind))
        report.in_step += len(batch) - len(found)
        for side, entries in ((Side.BLOB, batch.blob), (Side.VAST, batch.vast)):
            report.listed[side] += sum(1 for entry in entries if entry is not None)
        return bases, found

    async def _mark(self, found: list[Difference], report: Report, withheld: list[Gone]) -> None:
        if not found:
            return
        keys = [difference.row.key for difference in found]
        dirty, held = await self._state.are_dirty(keys), {one.key for one in await self._state.held(keys)}
        parked = await self._state.are_parked(keys)  # heard of; what stands in its way is no matter of events
        ahead_us = {side: (await self._stores[side].clock_skew()).us for side in Side}
        vast_ahead_us, now_us = ahead_us[Side.VAST], {side: self._clock.now_us() + ahead_us[side] for side in Side}
        marks: list[Change] = []
        for difference, known in zip(found, map(or_, dirty, parked), strict=True):
            self._blame(difference, report, known=known or difference.row.key in held)
            young_until_us = self._young_until(difference.row.vast, difference.base, vast_ahead_us)
            report.young += young_until_us > 0
            news_of_row = changes(difference.row, difference.base, now_us=now_us, young_until_us=young_until_us)
            if difference.kind is Drift.UNVERIFIED:
                still_held = difference.row.key in held and any(change.deleted for change in news_of_row)
                news_of_row = [] if still_held else [replace(change, deleted=False) for change in news_of_row]
            if difference.kind in _DELETED:
                withheld += [Gone(change.key, change.side) for change in news_of_row if change.deleted]
                news_of_row = [change for change in news_of_row if not change.deleted]
            marks += news_of_row
        report.marked += (await self._sink.mark(marks)).marked if marks else 0
        await self._deletes.if_too_many(report, withheld)

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
            if news(entry, difference.base, side) not in (News.CHANGED, News.GONE):
                continue
            who = self._teller(side, entry)
            by_feed = who == Source.CHANGE_FEED
            # A delete has no time: of one that only the feed tells nobody can say whether it should have been told by now.
            age_us = (0 if by_feed else RECENT_US) if entry is None else now - entry.modified.at_us - entry.modified.precision_us
            if age_us < (FEED_RECENT_US if by_feed else RECENT_US):
                report.recent += 1
                continue
            report.missed_by_events[side] += 1
            by = report.missed.setdefault(difference.kind, {})
            by[who] = by.get(who, 0) + 1

    def _teller(self, side: Side, entry: ListEntry | None) -> str:
        if side is Side.VAST and entry is not None and s3_etag_kind(entry.etag) is ETagKind.FILE_SIDE:
            return FILE_WRITES
        return self._tellers.get(side, "") or NO_SOURCE

    def _young_until(self, entry: ListEntry | None, base: Base | None, vast_ahead_us: int) -> int:
        """Our time until which the VAST version may still be being written; 0 when it is quiet or agreed."""
        if entry is None or news(entry, base, Side.VAST) is not News.CHANGED:
            return 0
        now_us = self._clock.now_us()
        modified_us = min(entry.modified.at_us - vast_ahead_us, now_us)  # a file may say that it was written in the future
        until = modified_us + entry.modified.precision_us + self._quiet_us
        return until if until > now_us else 0


async def _until(entries: AsyncIterator[ListEntry], until: str) -> AsyncGenerator[ListEntry, None]:
    try:
        async for entry in entries:
            if until and entry.key > until:
                return
            yield entry
    finally:
        if isinstance(entries, AsyncGenerator):
            await entries.aclose()


async def entry_of(store: ObjectStore, key: str) -> ListEntry | None:
    """What a listing would say of *key*; None only where the store says that it is not there (rule 3)."""
    try:
        found = (await store.head(key)).version
    except NotPresent:
        return None
    return ListEntry(key, found.etag, found.size_bytes, found.modified, found.md5)


async def _pages(first: ListEntry | None, rest: AsyncIterator[ListEntry]) -> Pages:
    if first is not None:
        yield [first]
        async for page in in_pages(rest, BATCH):
            yield page
