"""Lock-step merge of two listings in key order, a page at a time. Pure but for awaiting them; memory does not grow with them.

A row in step must cost next to nothing, so rows are not objects of their own: a batch holds three lists side by side, and where
both pages go on with the same keys they are taken over whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from operator import lt

from federation.errors import Halt
from federation.model import ListEntry, Side

Pages = AsyncIterator[Sequence[ListEntry]]
"""A listing in pieces of any size, in ascending order of the UTF-8 bytes of the keys; that is the order of Python's strings."""

_RUN = 256
"""Rows taken over at once where both sides go on with the same keys."""


@dataclass(frozen=True, slots=True)
class Row:
    """One key and what each listing says of it. At least one side is present."""

    key: str
    blob: ListEntry | None
    vast: ListEntry | None

    def of(self, side: Side) -> ListEntry | None:
        """The entry of *side*."""
        return self.blob if side is Side.BLOB else self.vast


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows, one after the other in three lists of one length."""

    keys: list[str] = field(default_factory=list)
    blob: list[ListEntry | None] = field(default_factory=list)
    vast: list[ListEntry | None] = field(default_factory=list)

    def row(self, at: int) -> Row:
        """One row."""
        return Row(self.keys[at], self.blob[at], self.vast[at])

    def rows(self) -> list[Row]:
        """All of them, for those who look at few."""
        return [self.row(at) for at in range(len(self.keys))]

    def last(self) -> dict[Side, str]:
        """The last key of each side that has one here: where its listing goes on."""
        found = {}
        for side, entries in ((Side.BLOB, self.blob), (Side.VAST, self.vast)):
            entry = next((entry for entry in reversed(entries) if entry is not None), None)
            if entry is not None:
                found[side] = entry.key
        return found

    def __len__(self) -> int:
        return len(self.keys)


class _Cursor:
    """One listing, one page ahead, checked for order while it is read."""

    def __init__(self, pages: Pages, side: Side) -> None:
        self._pages = pages
        self._side = side
        self.page: Sequence[ListEntry] = ()
        self.keys: list[str] = []
        self.at = 0
        self.ended = False

    async def fill(self) -> None:
        """Make sure that there is an entry at hand, or that the listing ended."""
        while self.at == len(self.keys) and not self.ended:
            last = self.keys[-1:]
            page = await anext(self._pages, None)
            if page is None:
                self.ended = True
            elif page:
                self.page, self.keys, self.at = page, [entry.key for entry in page], 0
                self._check_order(last + self.keys)

    def _check_order(self, keys: list[str]) -> None:
        if all(map(lt, keys, islice(keys, 1, None))):
            return
        wrong = next(two for one, two in pairwise(keys) if two <= one)
        raise Halt(
            f"the {self._side} listing is not in order at {wrong!r}; merging it would show false deletes",
            reason="listing_order",
            key=wrong,
            side=self._side,
        )


async def merge(blob: Pages, vast: Pages) -> AsyncIterator[Batch]:
    """Every key of either listing once, ascending by UTF-8 bytes, in batches no larger than both pages at hand.

    What a listing raises is raised here: a listing that failed is never taken for one that ended (rule 3).

    Raises:
        Halt: ``listing_order``, when a listing is out of order or names a key twice.
    """
    left, right = _Cursor(blob, Side.BLOB), _Cursor(vast, Side.VAST)
    while True:
        await left.fill()
        await right.fill()
        if left.ended and right.ended:
            return
        batch = Batch()
        if left.ended or right.ended:
            _rest(left, right, batch)
        else:
            _both(left, right, batch)
        yield batch


def _rest(left: _Cursor, right: _Cursor, batch: Batch) -> None:
    """What one side still has at hand when the other ended."""
    here, mine, other = (right, batch.vast, batch.blob) if left.ended else (left, batch.blob, batch.vast)
    batch.keys.extend(here.keys[here.at :])
    mine.extend(here.page[here.at :])
    other.extend([None] * len(batch.keys))
    here.at = len(here.keys)


def _both(left: _Cursor, right: _Cursor, batch: Batch) -> None:
    """Rows until one side has nothing more at hand."""
    while left.at < len(left.keys) and right.at < len(right.keys):
        run = min(_RUN, len(left.keys) - left.at, len(right.keys) - right.at)
        keys = left.keys[left.at : left.at + run]
        if keys == right.keys[right.at : right.at + run]:
            batch.keys.extend(keys)
            batch.blob.extend(left.page[left.at : left.at + run])
            batch.vast.extend(right.page[right.at : right.at + run])
            left.at += run
            right.at += run
        else:
            _one_by_one(left, right, batch, run)


def _one_by_one(left: _Cursor, right: _Cursor, batch: Batch, rows: int) -> None:
    i, j, lefts, rights = left.at, right.at, left.keys, right.keys
    for _ in range(rows):
        one, two = lefts[i], rights[j]
        batch.keys.append(min(one, two))
        batch.blob.append(left.page[i] if one <= two else None)
        batch.vast.append(right.page[j] if two <= one else None)
        i += one <= two
        j += two <= one
        if i == len(lefts) or j == len(rights):
            break
    left.at, right.at = i, j


async def in_pages(entries: AsyncIterator[ListEntry], rows: int) -> Pages:
    """A listing of single entries in pieces of *rows*."""
    page: list[ListEntry] = []
    async for entry in entries:
        page.append(entry)
        if len(page) >= rows:
            yield page
            page = []
    if page:
        yield page
