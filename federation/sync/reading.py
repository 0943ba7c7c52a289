"""Reading one version of an object, whole or a range of it, through connections that are cut."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from federation.errors import RetryLater
from federation.model import Side
from federation.ports import ObjectStore, Reader
from federation.sync.paced_store import tally

PIECE_BYTES = 1024 * 1024
_ONE_PIECE_BYTES = 256 * 1024
_FRUITLESS = 2
"""Times in a row a reading is taken up again that yields nothing."""
_CUT = frozenset({"cut_short", "unreachable", "timeout"})


class Opens(Protocol):
    """Where objects are read: a store, or one old version in it."""

    side: Side

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> Reader:
        """As ``ObjectStore.open``."""
        ...


class OfVersion:
    """One old version, read as if it were all there is under its key."""

    def __init__(self, store: ObjectStore, version_id: str) -> None:
        self.side = store.side
        self._store = store
        self._version_id = version_id

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> Reader:
        """As ``ObjectStore.open``; an old version never changes, so it matches whatever was read of it."""
        del if_match
        return await self._store.open_version(key, self._version_id, start=start, length=length)


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes ``[start, start+length)`` of the version *etag* under *key*."""

    store: Opens
    key: str
    etag: str
    start: int
    length: int


async def pieces(extent: Extent, reader: Reader | None = None) -> AsyncGenerator[bytes, None]:
    """The bytes of *extent* in pieces of at most ``PIECE_BYTES``; a stream that is cut is taken up where it ended, by range.

    *reader*: a GET of exactly this extent that is under way already; the caller closes it. Raises Reobserve when the object is
    another version by then, and RetryLater when nothing more comes.
    """
    got, fruitless, first = 0, 0, reader
    while True:
        begun = got
        current = first or await extent.store.open(
            extent.key, if_match=extent.etag, start=extent.start + got, length=extent.length - got
        )
        try:
            async for piece in current.chunks(PIECE_BYTES):
                got += len(piece)
                _read(len(piece))
                yield piece
        except RetryLater as error:
            fruitless = fruitless + 1 if got == begun else 0
            if fruitless >= _FRUITLESS or error.reason not in _CUT:
                raise
        finally:
            if first is None:
                await current.close()
        first = None
        if got >= extent.length:
            return
        if got == begun and fruitless == 0:
            raise RetryLater("the answer ended early", reason="cut_short", key=extent.key, side=extent.store.side)


async def read_all(extent: Extent, reader: Reader | None = None) -> bytes:
    """The bytes of *extent* in one. Raises as ``pieces``; a length other than announced is the caller's to find."""
    if reader is not None and extent.length <= _ONE_PIECE_BYTES:
        try:
            data = await reader.read()
        except RetryLater as error:
            if error.reason not in _CUT or not extent.length:
                raise
        else:
            _read(len(data))
            return data
        reader = None
    if not extent.length:
        return b""
    async with aclosing(pieces(extent, reader)) as parts:
        got = [piece async for piece in parts]
    return got[0] if len(got) == 1 else b"".join(got)


def _read(size_bytes: int) -> None:
    current = tally.get(None)
    if current is not None:
        current.read_bytes += size_bytes
