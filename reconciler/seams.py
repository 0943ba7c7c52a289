"""The listing of one range, and the proof at its end that nothing of it was left behind.

A range is listed from its first bound until a key beyond its last. That is all of it only where the server's order is that of the
keys. So the first key beyond must also be the first that the server lists after the bound: then each range ends where the next
one begins, the ranges are one listing without gaps, and an entry out of order is met by one of them. A key may be made or deleted
between the two looks; then the range is read on from its last key, and looked at again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from federation.errors import RetryLater
from federation.model import ListEntry
from federation.ports import ObjectStore

LISTING_ORDER = "listing_order"
LOOKS = 5
"""A seam that changed between both looks so often in a row is no accident."""


async def in_span(store: ObjectStore, *, prefix: str, after: str, until: str) -> AsyncGenerator[ListEntry, None]:
    """Entries after *after*, up to and including *until* (empty: to the end). Raises RetryLater (listing_order), and as ``list``.

    Where the order does not hold, the store is no longer believed to be ordered.
    """
    for _ in range(LOOKS):
        beyond = ""
        async with listed(store, prefix, after) as entries:
            async for entry in entries:
                if until and entry.key > until:
                    beyond = entry.key
                    break
                after = entry.key
                yield entry
        # A store that is not ordered sorts by itself, or was believed to be when the range began: then its owner starts over.
        if not until or not store.ordered or beyond == await _first(store, prefix, until):
            return
    store.ordered = False
    raise RetryLater(
        f"the {store.side} listing goes on elsewhere after {until!r} than in the order of its keys; scan anew as one range",
        reason=LISTING_ORDER,
        side=store.side,
    )


@asynccontextmanager
async def listed(store: ObjectStore, prefix: str, after: str) -> AsyncIterator[AsyncIterator[ListEntry]]:
    """A listing that is ended with the block."""
    entries = store.list(prefix=prefix, start_after=after)
    if isinstance(entries, AsyncGenerator):
        async with aclosing(entries):
            yield entries
    else:
        yield entries


async def _first(store: ObjectStore, prefix: str, after: str) -> str:
    async with listed(store, prefix, after) as entries:
        entry = await anext(entries, None)
    return entry.key if entry is not None else ""
