"""Defects of the change feed's reader and of what status tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from federation.model import SECOND_US
from federation.sources.change_feed import ChangeFeed
from federation.sources.change_feed_chunk import Piece
from federation.sync.context import PairContext
from operations import status
from reconciler.converged import ScanSpan, converged_us
from tests.simulation.draw import FED_FROM
from tests.simulation.mutants.mutant import Mutant, Swap


def _feed_cursor_before_marks() -> list[Swap]:
    original = ChangeFeed._take

    async def take(self: Any, batch: Any, cursor: Any) -> Any:
        position = self._position
        for item in batch:
            if isinstance(item, Piece):
                position = position.read({item.chunk: item.position}, 0)
        return await original(self, batch, await self._move(cursor, position))

    return [Swap(ChangeFeed, "_take", take)]


def _feed_gap_unheeded() -> list[Swap]:
    original = ChangeFeed._gap

    async def gap(self: Any, reason: str) -> None:
        if "is not there any more" not in reason:
            await original(self, reason)

    return [Swap(ChangeFeed, "_gap", gap)]


def _clocks_taken_for_ours() -> list[Swap]:
    return [Swap(status, "clocks_ahead_us", lambda *_: [0])]


def _converged(change: Callable[[Sequence[ScanSpan], int | None], tuple[Sequence[ScanSpan], int | None]]) -> list[Swap]:
    def wrong(scans: Sequence[ScanSpan], oldest: int | None, watermark: Any = None, **named: Any) -> int | None:
        return converged_us(*change(scans, oldest), watermark, **named)

    return [Swap(status, "converged_us", wrong)]


def _converged_from_the_end() -> list[Swap]:
    return _converged(lambda scans, oldest: ([ScanSpan(one.finished_us, one.finished_us) for one in scans], oldest))


def _converged_despite_dirty() -> list[Swap]:
    return _converged(lambda scans, _: (scans, None))


def _converged_hours_late() -> list[Swap]:
    early = 3600 * SECOND_US
    return _converged(lambda scans, oldest: ([replace(one, started_us=one.started_us - early) for one in scans], oldest))


def _waiting_by_our_clock() -> list[Swap]:
    async def mark(self: PairContext, changes: Any) -> Any:
        return await self.state.mark(changes)

    return [Swap(PairContext, "mark", mark)]


REPORTS = [
    Mutant("waiting_by_our_clock", "what has no time waits since now by our clock, not by its side's", _waiting_by_our_clock),
    Mutant("feed_cursor_before_marks", "the feed's cursor moves before the marks", _feed_cursor_before_marks, first=FED_FROM),
    Mutant("feed_gap_unheeded", "hours that retention took are passed over", _feed_gap_unheeded, first=FED_FROM),
    Mutant("clocks_taken_for_ours", "status takes the sides' clocks for its own", _clocks_taken_for_ours, first=FED_FROM),
    Mutant("converged_from_the_end", "a scan is believed to have seen what changed while it ran", _converged_from_the_end),
    Mutant("converged_despite_dirty", "waiting changes are no matter to what is said to be equal", _converged_despite_dirty),
    Mutant("converged_hours_late", "what is said to be equal is far in the past", _converged_hours_late),
]
