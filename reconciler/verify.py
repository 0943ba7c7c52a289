"""Read every object on both sides to its end and compare the contents: what no listing and no ETag can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from itertools import compress
from typing import Protocol, TypeVar

import msgspec

from federation import nameless
from federation.backoff import backoff_seconds
from federation.errors import NotPresent, Park, Reobserve, RetryLater
from federation.model import ListEntry, Present, Side, Version
from federation.nameless import Ear, heard
from federation.ports import Clock, ObjectStore, State
from federation.telemetry import logger, plain
from reconciler.comparison import entry_of
from reconciler.merge import Batch, Row, in_pages, merge
from reconciler.seams import in_span

_PAGE = 200
TRIES = 5
"""Of one key's contents, before it is named as one that cannot be read; also of one that is in flight, at the end."""
_LONGEST_PAUSE_SECONDS = 5.0
PATIENCE_SECONDS = 900.0
"""So long, in all, one key waits for what is not its fault: several times what a gate stays closed for."""
_OUR_LINE = "bulk_busy"
"""Large objects before this one are being read here: that ends, however long it takes."""
ASKED_FOR_REST = frozenset({"paced", "throttled", _OUR_LINE})
"""Reasons of RetryLater that say nothing of the key and when to come again."""
AT_ONCE = 8
MOST_NAMED = 1000

_T = TypeVar("_T")
_log = logger("fedplane.reconciler")


class Verified(msgspec.Struct, kw_only=True):
    """What a verification found. Keys are named up to ``MOST_NAMED`` of each kind."""

    read: int = 0
    """Keys whose contents were read on both sides."""
    bytes: int = 0
    in_flight: int = 0
    """Keys that are being worked on, or changed while they were read, each time: nothing is said about them."""
    changing: list[str] = []
    """Their names."""
    differ: list[str] = []
    one_sided: list[str] = []
    unreadable: list[str] = []
    unaddressable: nameless.Found = {}
    """Names that stand for no key: nothing is said about them either."""
    complete: bool = False
    """Whether it came to the end of both listings."""
    resume: str = ""
    """The last key of which everything is said."""
    listed_to: dict[Side, str] = {}
    """The last key of each side up to ``resume``."""

    @property
    def fine(self) -> bool:
        """Whether everything was read, and is equal."""
        return self.complete and not (self.differ or self.one_sided or self.unreadable or self.in_flight or self.unaddressable)

    def text(self) -> str:
        """A page for people."""
        lines = [f"read {self.read} keys on both sides, {self.bytes} bytes"]
        if self.in_flight:
            lines.append(f"  {self.in_flight} keys wait to be applied, or kept changing: nothing is said about them")
        for what, keys in (
            ("OTHER CONTENT on the two sides", self.differ),
            ("on one side only", self.one_sided),
            ("cannot be read", self.unreadable),
            ("nothing is said about", self.changing),
        ):
            lines += [f"  {what}: {plain(key)}" for key in keys]
        lines += [f"  {line}" for line in nameless.text(self.unaddressable)]
        if not self.complete:
            reached = f"after {self.resume!r}" if self.resume else "before the first key"
            lines.append(f"  CUT SHORT {reached}: nothing is said about what follows")
        return "\n".join(lines if not self.fine else [*lines, "  all contents are equal"])


class Hasher(Protocol):
    """``sync.transfer.Transfer``, as far as it is needed."""

    async def hash_object(self, store: ObjectStore, key: str, present: Present) -> str:
        """MD5 of exactly that version, by reading it. Raises Reobserve when it is no longer that version."""
        ...


class _Patience:
    """Of one verification: a side that asked for rest says nothing about the key, and is waited for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ended: set[Side] = set()
        """Sides for which a key waited in vain, and that answered nothing since: the next ones do not wait as long again."""

    async def tried(self, side: Side, step: Callable[[], Awaitable[_T]]) -> _T:
        """What *step* returns. Raises RetryLater: the key's own when it came ``TRIES`` times, others when patience ends."""
        refusals = tries = 0
        waited_seconds = 0.0
        while True:
            try:
                result = await step()
            except RetryLater as error:
                pause = max(error.after_seconds or 0.0, backoff_seconds(refusals, first_seconds=0.5))
                refusals += 1
                if error.reason not in ASKED_FOR_REST:
                    tries += 1
                    pause = min(_LONGEST_PAUSE_SECONDS, pause)
                    if tries == TRIES:
                        raise
                elif error.reason != _OUR_LINE:
                    if side in self._ended or waited_seconds >= PATIENCE_SECONDS:
                        self._ended.add(side)
                        raise
                    pause = min(PATIENCE_SECONDS, pause)
                    waited_seconds += pause
                    _log.warning("waiting for a side", side=side, error=str(error), in_seconds=round(pause, 1))
                await self._clock.sleep(pause)
            else:
                self._ended.discard(side)
                return result


async def verify(
    stores: Mapping[Side, ObjectStore],
    state: State,
    hasher: Hasher,
    clock: Clock,
    *,
    prefix: str = "",
    found: Verified | None = None,
    on_progress: Callable[[Verified], None] | None = None,
) -> Verified:
    """Read and compare all keys under *prefix*. Changes nothing. Raises what the listings raise, and RetryLater.

    Then *found* holds what was found until then; given again, it is gone on with. What is in flight is looked at again at the
    end, and before that where it is much.
    """
    found, patience = found or Verified(), _Patience(clock)
    listening = heard.set(Ear(found.unaddressable))
    try:
        await _verify_listed(stores, state, hasher, patience, prefix, found, on_progress)
    finally:
        heard.reset(listening)
    for attempt in range(TRIES if found.changing else 0):
        if attempt:
            await clock.sleep(min(_LONGEST_PAUSE_SECONDS, backoff_seconds(attempt - 1, first_seconds=0.5)))
        await _look_again(stores, state, hasher, patience, found)
        if not found.changing:
            break
    found.complete = True
    return found


async def _verify_listed(
    stores: Mapping[Side, ObjectStore],
    state: State,
    hasher: Hasher,
    patience: _Patience,
    prefix: str,
    found: Verified,
    on_progress: Callable[[Verified], None] | None,
) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(row: Row) -> None:
        async with slots:
            await _compare(stores, hasher, patience, row, found)

    async with aclosing(_batches(stores, prefix, found)) as batches:
        async for batch in batches:
            dirty = await state.are_dirty(batch.keys)
            for key in compress(batch.keys, dirty):
                _later(found, key)
            await asyncio.gather(*(one(row) for row, busy in zip(batch.rows(), dirty, strict=True) if not busy))
            found.resume = batch.keys[-1]
            found.listed_to |= batch.last()
            if on_progress is not None:
                on_progress(found)
            if len(found.changing) >= MOST_NAMED // 2:
                await _look_again(stores, state, hasher, patience, found)


async def _look_again(
    stores: Mapping[Side, ObjectStore], state: State, hasher: Hasher, patience: _Patience, found: Verified
) -> None:
    """Read what was in flight and has come to rest. Raises RetryLater; then all of it still is in *found*."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(key: str) -> None:
        async with slots:
            try:
                looks = [(side, partial(entry_of, stores[side], key)) for side in (Side.BLOB, Side.VAST)]
                row = Row(key, *[await patience.tried(side, look) for side, look in looks])
            except RetryLater:
                return
            except Park as error:
                row = None
                _name(found.unreadable, f"{key} ({error.reason})")
            found.in_flight -= 1
            found.changing.remove(key)
            if row is not None and (row.blob is not None or row.vast is not None):
                await _compare(stores, hasher, patience, row, found)

    keys = list(found.changing)
    busy = await state.are_dirty(keys)
    await asyncio.gather(*(one(key) for key, dirty in zip(keys, busy, strict=True) if not dirty))


async def _batches(stores: Mapping[Side, ObjectStore], prefix: str, found: Verified) -> AsyncGenerator[Batch, None]:
    async with (
        aclosing(_left(stores[Side.BLOB], prefix, found)) as blob,
        aclosing(_left(stores[Side.VAST], prefix, found)) as vast,
    ):
        async for batch in merge(in_pages(blob, _PAGE), in_pages(vast, _PAGE)):
            yield batch


async def _left(store: ObjectStore, prefix: str, found: Verified) -> AsyncGenerator[ListEntry, None]:
    done = found.resume
    async with aclosing(in_span(store, prefix=prefix, after=found.listed_to.get(store.side, ""), until="")) as entries:
        async for entry in entries:
            if entry.key > done:
                yield entry


async def _compare(stores: Mapping[Side, ObjectStore], hasher: Hasher, patience: _Patience, row: Row, found: Verified) -> None:
    if row.blob is None or row.vast is None:
        _name(found.one_sided, row.key)
        return
    try:
        md5 = await _read(stores, hasher, patience, row)
    except (Reobserve, NotPresent):
        _later(found, row.key)
    except (Park, RetryLater) as error:
        _name(found.unreadable, f"{row.key} ({_why(error)})")
    else:
        found.read += 1
        found.bytes += row.blob.size_bytes + row.vast.size_bytes
        if len(md5) > 1:
            _name(found.differ, row.key)


async def _read(stores: Mapping[Side, ObjectStore], hasher: Hasher, patience: _Patience, row: Row) -> set[str]:
    """The contents of both sides. Raises as ``_Patience.tried``."""
    md5 = set()
    for side in Side:
        entry = row.of(side)
        if entry is not None:
            present = Present(Version(entry.etag, entry.size_bytes, entry.modified, md5=entry.md5))
            read = partial(hasher.hash_object, stores[side], row.key, present)
            md5.add(await patience.tried(side, read))
    return md5


def _why(error: Park | RetryLater) -> str:
    return f"not its fault: {error}" if error.reason in ASKED_FOR_REST else error.reason


def _later(found: Verified, key: str) -> None:
    found.in_flight += 1
    _name(found.changing, key)


def _name(keys: list[str], key: str) -> None:
    if len(keys) < MOST_NAMED:
        keys.append(key)
