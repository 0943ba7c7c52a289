"""Read every object on both sides to its end and compare the contents: what no listing and no ETag can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

import msgspec

from federation.errors import NotPresent, Park, Reobserve
from federation.model import Present, Side, Version
from federation.ports import ObjectStore, State
from reconciler.merge import Row, in_pages, merge

_PAGE = 200
AT_ONCE = 8
MOST_NAMED = 1000


class Verified(msgspec.Struct, kw_only=True):
    """What a verification found. Keys are named up to ``MOST_NAMED`` of each kind."""

    read: int = 0
    """Keys whose contents were read on both sides."""
    bytes: int = 0
    in_flight: int = 0
    """Keys that are being worked on, or changed while they were read: nothing is said about them."""
    differ: list[str] = []
    one_sided: list[str] = []
    unreadable: list[str] = []

    @property
    def fine(self) -> bool:
        """Whether everything read is equal and everything could be read."""
        return not (self.differ or self.one_sided or self.unreadable)

    def text(self) -> str:
        """A page for people."""
        lines = [f"read {self.read} keys on both sides, {self.bytes} bytes; {self.in_flight} were changing"]
        for what, keys in (
            ("OTHER CONTENT on the two sides", self.differ),
            ("on one side only", self.one_sided),
            ("cannot be read", self.unreadable),
        ):
            lines += [f"  {what}: {key}" for key in keys]
        return "\n".join(lines if not self.fine else [*lines, "  all contents are equal"])


class Hasher(Protocol):
    """``sync.transfer.Transfer``, as far as it is needed."""

    async def hash_object(self, store: ObjectStore, key: str, present: Present) -> str:
        """MD5 of exactly that version, by reading it. Raises Reobserve when it is no longer that version."""
        ...


async def verify(
    stores: Mapping[Side, ObjectStore],
    state: State,
    hasher: Hasher,
    *,
    prefix: str = "",
    on_progress: Callable[[Verified], None] | None = None,
) -> Verified:
    """Read and compare all keys under *prefix*. Changes nothing. Raises what the listings raise, and RetryLater."""
    found = Verified()
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(row: Row) -> None:
        async with slots:
            await _compare(stores, hasher, row, found)

    async for rows in _rows(stores, prefix):
        dirty = await state.are_dirty([row.key for row in rows])
        found.in_flight += sum(dirty)
        await asyncio.gather(*(one(row) for row, busy in zip(rows, dirty, strict=True) if not busy))
        if on_progress is not None:
            on_progress(found)
    return found


async def _rows(stores: Mapping[Side, ObjectStore], prefix: str) -> AsyncIterator[list[Row]]:
    listings = [in_pages(stores[side].list(prefix=prefix), _PAGE) for side in (Side.BLOB, Side.VAST)]
    async for batch in merge(*listings):
        yield batch.rows()


async def _compare(stores: Mapping[Side, ObjectStore], hasher: Hasher, row: Row, found: Verified) -> None:
    if row.blob is None or row.vast is None:
        _name(found.one_sided, row.key)
        return
    try:
        md5 = set()
        for side in Side:
            entry = row.of(side)
            if entry is not None:
                version = Version(entry.etag, entry.size_bytes, entry.modified, md5=entry.md5)
                md5.add(await hasher.hash_object(stores[side], row.key, Present(version)))
    except (Reobserve, NotPresent):
        found.in_flight += 1
    except Park as error:
        _name(found.unreadable, f"{row.key} ({error.reason})")
    else:
        found.read += 1
        found.bytes += row.blob.size_bytes + row.vast.size_bytes
        if len(md5) > 1:
            _name(found.differ, row.key)


def _name(keys: list[str], key: str) -> None:
    if len(keys) < MOST_NAMED:
        keys.append(key)
