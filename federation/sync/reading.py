"""Reading one version of an object, whole or a range of it, through connections that are cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from federation.backoff import backoff_seconds
from federation.errors import RetryLater
from federation.model import Side
from federation.ports import ObjectStore, Reader
from federation.sync.paced_store import tally

PIECE_BYTES = 1024 * 1024
_ONE_PIECE_BYTES = 256 * 1024
_REOPENED = 5
"""Times a reading is taken up again that yields less than ``PIECE_BYTES`` in all."""
_PAUSE_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 600.0
_CUT = frozenset({"cut_short", "unreachable", "timeout"})
_PASSES = _CUT | {"throttled", "paced", "server_error"}


class Opens(Protocol):
    """Where objects are read: a store, or one old version in it."""

    side: Side

    @property
    def sealed(self) -> bool:
        """As ``ObjectStore.sealed``."""
        ...

    @property
    def checked_bytes(self) -> int:
        """As ``ObjectStore.checked_bytes``."""
        ...

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> Reader:
        """As ``ObjectStore.open``."""
        ...


class OfVersion:
    """One old version, read as if it were all there is under its key."""

    def __init__(self, store: ObjectStore, version_id: str) -> None:
        self.side = store.side
        self._store = store
        self._version_id = version_id
        self.sealed = store.sealed
        self.checked_bytes = store.checked_bytes

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
    of_bytes: int | None = None
    """Size of the whole version, where an answer that tells another is to be refused."""

    async def open(self, got: int = 0) -> Reader:
        """A GET of what is missing when the first *got* bytes are there. Raises as ``Opens.open``, and RetryLater."""
        reader = await self.store.open(self.key, if_match=self.etag, start=self.start + got, length=self.length - got)
        if self.of_bytes in (None, reader.present.version.size_bytes):
            return reader
        await reader.close()
        raise _fault(self, "the object is of another size than was told before", "content_mismatch")


async def pieces(extent: Extent, reader: Reader | None = None, *, cut: RetryLater | None = None) -> AsyncGenerator[bytes, None]:
    """All bytes of *extent* in pieces of at most ``PIECE_BYTES``; a stream that is cut is taken up where it ended, by range.

    *reader*: a GET of exactly this extent that is under way already; the caller closes it. *cut*: how one before ended. Raises
    Reobserve when the object is another version by then, and RetryLater when nothing more comes (cut_short and the like) or too
    much (bad_answer).
    """
    got, first, patience = 0, reader, _Patience()
    while True:
        begun = got
        current = first or await _open(extent, got, cut)
        try:
            async for piece in current.chunks(PIECE_BYTES):
                got += len(piece)
                if got > extent.length:
                    raise _fault(extent, "more came than was asked for", "bad_answer")
                _read(len(piece))
                yield piece
        except RetryLater as error:
            if error.reason not in _CUT or (got < extent.length and patience.ends(got)):
                raise
            cut = error
        else:
            if got < extent.length and (got == begun or patience.ends(got)):
                raise _fault(extent, "the answer ended early", "cut_short")
        finally:
            if first is None:
                await current.close()
        first = None
        if got >= extent.length:
            return
        await asyncio.sleep(patience.pause_seconds())  # by the loop's time, which is the simulation's too


async def whole_pieces(extent: Extent, *, patient: bool, from_first: bool = False) -> AsyncGenerator[bytes, None]:
    """As ``pieces``, of a whole object; if *patient*, a throttle or a closed gate is waited out once something came.

    *from_first*: also before. For as long as more than drops come in between; else as ``waited_out``.
    """
    got, since_bytes, rest = 0, 0, _Rest()
    while True:
        reader = None
        try:
            reader = await (extent.open(got) if got else extent.store.open(extent.key, if_match=extent.etag))
            missing = replace(extent, start=extent.start + got, length=extent.length - got)
            async with aclosing(pieces(missing, reader)) as parts:
                async for piece in parts:
                    got += len(piece)
                    yield piece
        except RetryLater as error:
            if not patient or not (got or from_first):
                raise  # nothing is read twice for it, and whoever asked may have a patience of its own
            if got - since_bytes >= PIECE_BYTES:
                since_bytes, rest = got, _Rest()
            pause = rest.pause_seconds(error)
        else:
            return
        finally:
            if reader is not None:
                await reader.close()
        await asyncio.sleep(pause)


async def waited_out(step: Callable[[], Awaitable[None]]) -> None:
    """Do *step*, again where it had a fault that passes: for about half a minute without a Retry-After, at most ten minutes."""
    rest = _Rest()
    while True:
        try:
            return await step()
        except RetryLater as error:
            pause = rest.pause_seconds(error)
        await asyncio.sleep(pause)


class _Rest:
    """Waiting for a side that was asked in vain."""

    def __init__(self) -> None:
        self._attempt = 0
        self._since_seconds: float | None = None

    def pause_seconds(self, error: RetryLater) -> float:
        """Before it is asked again. Raises *error* where that does not pass, or not soon."""
        now = asyncio.get_running_loop().time()
        since = self._since_seconds = now if self._since_seconds is None else self._since_seconds
        if self._attempt >= _REOPENED or now - since > _LONGEST_WAIT_SECONDS or error.reason not in _PASSES:
            raise error
        pause = error.after_seconds if error.after_seconds is not None else backoff_seconds(self._attempt)
        self._attempt += error.reason != "paced"
        return pause


async def _open(extent: Extent, got: int, cut: RetryLater | None) -> Reader:
    """As ``Extent.open``. What *cut* the one before is told rather than that the gate is closed: it may lie with this object."""
    try:
        return await extent.open(got)
    except RetryLater as error:
        if cut is None or error.reason != "paced":
            raise
        raise cut from None


class _Patience:
    """With one extent whose stream is cut again and again: what comes in drops would keep memory and a claim for ever."""

    def __init__(self) -> None:
        self._cuts = 0
        self._since_bytes = 0

    def ends(self, got: int) -> bool:
        """Whether a cut after *got* bytes is the last that is put up with."""
        if got - self._since_bytes >= PIECE_BYTES:
            self._cuts, self._since_bytes = 0, got
        self._cuts += 1
        return self._cuts > _REOPENED

    def pause_seconds(self) -> float:
        """Before the stream is taken up: at once after the first cut, then longer and longer."""
        return backoff_seconds(self._cuts - 2, first_seconds=_PAUSE_SECONDS) if self._cuts > 1 else 0.0


def _fault(extent: Extent, text: str, reason: str) -> RetryLater:
    return RetryLater(text, reason=reason, key=extent.key, side=extent.store.side)


async def read_all(extent: Extent, reader: Reader | None = None) -> bytes:
    """All bytes of *extent* in one. Raises as ``pieces``."""
    cut: RetryLater | None = None
    if reader is not None and reader.present.version.size_bytes == extent.length <= _ONE_PIECE_BYTES:
        try:
            data = await reader.read()
        except RetryLater as error:
            if error.reason not in _CUT or not extent.length:
                raise
            cut = error
        else:
            return _whole(extent, data)
        reader = None
    if not extent.length and reader is None:
        return b""
    async with aclosing(pieces(extent, reader, cut=cut)) as parts:
        got = [piece async for piece in parts]
    return got[0] if len(got) == 1 else b"".join(got)


async def read_checked(extent: Extent, checked_bytes: int) -> bytes:
    """As ``read_all``, in ranges of *checked_bytes* or less: each answer brings its checksum (``Opens.checked_bytes``)."""
    got = []
    for begun in range(0, extent.length, checked_bytes):
        length = min(checked_bytes, extent.length - begun)
        got.append(await _read_one(replace(extent, start=extent.start + begun, length=length)))
    return got[0] if len(got) == 1 else b"".join(got)


async def _read_one(extent: Extent) -> bytes:
    """One answer as a whole: of one that was cut the checksum proves nothing."""
    patience, cut = _Patience(), None
    while True:
        reader = await _open(extent, 0, cut)
        try:
            data = await reader.read()
        except RetryLater as error:
            if error.reason not in _CUT | {"content_mismatch"} or patience.ends(0):
                raise
            cut = error
        else:
            return _whole(extent, data)
        finally:
            await reader.close()
        await asyncio.sleep(patience.pause_seconds())


def _whole(extent: Extent, data: bytes) -> bytes:
    if len(data) != extent.length:
        raise _fault(extent, "another length came than was announced", "bad_answer")
    _read(len(data))
    return data


def _read(size_bytes: int) -> None:
    current = tally.get(None)
    if current is not None:
        current.read_bytes += size_bytes
