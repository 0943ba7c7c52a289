"""Deletes that a scan found are marked last: how many they are is known before the first is carried out (rule 8)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from federation.model import Change, Side, Source
from federation.ports import ChangeSink, State
from federation.progress import DeleteBudget
from federation.rules.guards import MASS_DELETE, delete_limit
from reconciler.report import Report

_MARK_AT_ONCE = 1000


class Gone(msgspec.Struct, frozen=True, array_like=True):
    """An object that is gone on *side* only, as far as the listings tell."""

    key: str
    side: Side


class Withheld:
    """What becomes of the deletes of a scan. Without a *budget* they are only put off.

    *confirm* runs before any is marked, and raises what forbids that: a side that was taken away while it was listed looks like
    one whose objects were deleted.
    """

    def __init__(
        self, state: State, sink: ChangeSink, budget: DeleteBudget | None, confirm: Callable[[], Awaitable[None]]
    ) -> None:
        self._state = state
        self._sink = sink
        self._budget = budget
        self._confirm = confirm

    async def if_too_many(self, report: Report, withheld: list[Gone]) -> None:
        """While scanning: once a side is past the limit there is no reason for its deletes to wait, so what is kept stays small.

        Those of the other side wait on: whether they are too many shows at the end.
        """
        if self._budget is None or len(withheld) <= self._budget.count:
            return
        for side in Side:
            ours = [gone for gone in withheld if gone.side is side]
            if len(ours) > self._budget.count:
                await self.mark(report, ours)
                withheld[:] = [gone for gone in withheld if gone.side is not side]

    async def mark(
        self,
        report: Report,
        withheld: list[Gone],
        *,
        marked: int = 0,
        told: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Mark them and forget them; first, durably, that they are held where they are too many.

        The first *marked* of them are marked already. *told* hears how many are.
        """
        if any(gone.side not in report.mass_delete for gone in withheld[marked:]):  # those are held, whatever became of the side
            await self._confirm()
        limit = await self.limit() if withheld else None
        for side in Side:
            # Those that were marked before count too: it is the sum that says what became of the side.
            many = max(sum(gone.side is side for gone in withheld), _gone(report, side))
            if limit is not None and many > limit:
                report.mass_delete = sorted({*report.mass_delete, side})
                await self._state.put_note(f"{MASS_DELETE}{side}", b"1")
        for at in range(marked, len(withheld), _MARK_AT_ONCE):
            piece = withheld[at : at + _MARK_AT_ONCE]
            # What is held already waits for a person's word: marked anew it would slip from under a verdict on all of them.
            held = {(one.key, one.delete_on.other) for one in await self._state.held([gone.key for gone in piece])}
            news = [gone for gone in piece if (gone.key, gone.side) not in held]
            marks = [Change(gone.key, gone.side, Source.RECONCILER, deleted=True) for gone in news]
            report.marked += (await self._sink.mark(marks)).marked if marks else 0
            if told is not None:
                await told(min(at + _MARK_AT_ONCE, len(withheld)))
        withheld.clear()

    async def few_again(self, report: Report) -> None:
        """After a whole scan: where no more is gone than the budget allows, deletes are carried out again."""
        limit = await self.limit()
        for side in Side:
            note = f"{MASS_DELETE}{side}"
            if (
                side not in report.mass_delete
                and (limit is None or _gone(report, side) <= limit)
                and await self._state.note(note)
            ):
                await self._state.put_note(note, b"")

    async def limit(self) -> int | None:
        """More deletes of one side than that are held; None: no number is too many."""
        if self._budget is None:
            return None
        objects = (await self._state.backlog()).objects
        return delete_limit(objects, count=self._budget.count, share=self._budget.share)


def _gone(report: Report, side: Side) -> int:
    """Deletes on *side* that the scan found so far; at its end all of them."""
    return report.drift.get(f"deleted_on_{side}", 0)
