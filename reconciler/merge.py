"""Lock-step merge of two listings in key order. Pure but for awaiting them; memory does not grow with their length."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from federation.errors import Halt
from federation.model import ListEntry, Side


@dataclass(frozen=True, slots=True)
class Row:
    """One key and what each listing says of it. At least one side is present."""

    key: str
    blob: ListEntry | None
    vast: ListEntry | None

    def of(self, side: Side) -> ListEntry | None:
        """The entry of *side*."""
        return self.blob if side is Side.BLOB else self.vast


class _Cursor:
    """One listing, one entry ahead, checked for order while it is read."""

    def __init__(self, entries: AsyncIterator[ListEntry], side: Side) -> None:
        self._entries = entries
        self._side = side
        self._last: bytes | None = None
        self.entry: ListEntry | None = None
        self.sort_key = b""

    async def advance(self) -> None:
        self.entry = await anext(self._entries, None)
        if self.entry is None:
            return
        self.sort_key = self.entry.key.encode()
        if self._last is not None and self.sort_key <= self._last:
            raise Halt(
                f"the {self._side} listing is not in order at {self.entry.key!r}; merging it would show false deletes",
                reason="listing_order",
                key=self.entry.key,
                side=self._side,
            )
        self._last = self.sort_key


async def merge(blob: AsyncIterator[ListEntry], vast: AsyncIterator[ListEntry]) -> AsyncIterator[Row]:
    """Every key of either listing once, ascending by UTF-8 bytes.

    What a listing raises is raised here: a listing that failed is never taken for one that ended (rule 3).

    Raises:
        Halt: ``listing_order``, when a listing is out of order or names a key twice.
    """
    left, right = _Cursor(blob, Side.BLOB), _Cursor(vast, Side.VAST)
    await left.advance()
    await right.advance()
    while left.entry is not None or right.entry is not None:
        if right.entry is None or (left.entry is not None and left.sort_key < right.sort_key):
            row = Row(left.entry.key if left.entry else "", left.entry, None)
            await left.advance()
        elif left.entry is None or right.sort_key < left.sort_key:
            row = Row(right.entry.key, None, right.entry)
            await right.advance()
        else:
            row = Row(left.entry.key, left.entry, right.entry)
            await left.advance()
            await right.advance()
        yield row
