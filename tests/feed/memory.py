"""A feed's container in memory, with faults, and what the tests of reading share."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from hashlib import md5
from typing import Any

from federation.errors import FederationError, NotPresent
from federation.model import ListEntry, Stamp
from federation.sources.change_feed_chunk import Damage, Piece, ReadLimits, Records
from federation.sources.change_feed_position import FeedPosition, load, start_at
from federation.sources.change_feed_reader import FeedReader, Folded, Lost
from tests.feed.writer import Feed, hour, record


@dataclass
class MemoryBlobs:
    """``FeedBlobs`` over a dictionary; ``faults`` by name are raised instead of an answer."""

    blobs: dict[str, bytes]
    faults: dict[str, FederationError] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    """Name, start and length of every part that was read of a chunk."""

    async def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """As in the protocol."""
        self.requests["read"] += 1
        if name in self.faults:
            raise self.faults[name]
        if name not in self.blobs:
            raise NotPresent("not there", reason="not_present", key=name)
        data = self.blobs[name]
        part = data[start:] if length is None else data[start : start + length]
        if name.endswith(".avro"):
            self.ranges.append((name, start, len(part)))
        return part

    async def entries(self, prefix: str) -> AsyncIterator[ListEntry]:
        """As in the protocol."""
        self.requests["list"] += 1
        if prefix in self.faults:
            raise self.faults[prefix]
        for name, data in sorted(self.blobs.items()):
            if name.startswith(prefix):
                # Nobody looks at the ETag of a chunk, whose hash would cost more than reading it.
                etag = "chunk" if name.endswith(".avro") else md5(data, usedforsecurity=False).hexdigest()
                yield ListEntry(name, etag, len(data), Stamp(0))

    async def close(self) -> None:
        """Nothing to release."""


@dataclass
class Reading:
    """A reader that can be stopped and begun again from its written position after any piece."""

    blobs: MemoryBlobs
    limits: ReadLimits = field(default_factory=ReadLimits)
    position: FeedPosition = field(default_factory=lambda: start_at(0))
    records: Records = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    duplicates: int = 0
    as_of_us: int = 0
    unread_bytes: int = 0

    async def all(self) -> list[str]:
        """One pass to its end; the ids that it brought."""
        return [one["id"] for one in await self.some(10**9)]

    async def some(self, pieces: int) -> Records:
        """One pass of a new reader, abandoned after *pieces* that brought records; the position goes through its written form."""
        before = len(self.records)
        self.position = load(self.position.dump())
        reader = FeedReader(self.blobs, lambda records: records, self.limits)
        try:
            async with aclosing(reader.sweep(self.position)) as items:
                async for item in items:
                    pieces -= self._take(item)
                    if not pieces:
                        break
            self.as_of_us, self.unread_bytes = reader.progress.as_of_us, reader.progress.unread_bytes
        finally:
            reader.close()
        return self.records[before:]

    async def stopping(self) -> int:
        """Passes of one piece each until nothing is left; how many."""
        passes = 0
        while await self.some(1):
            passes += 1
        return passes

    def _take(self, item: Any) -> bool:  # noqa: ANN401 - any of the four
        match item:
            case Piece():
                self.records += item.payload
                self.duplicates += item.duplicates
                self.position = self.position.read({item.chunk: item.position})
                return bool(item.payload)
            case Damage():
                self.damage.append(item)
                self.position = self.position.read({item.chunk: item.position})
            case Lost():
                self.lost.append(item)
                self.position = self.position.without(item.chunks, unseen=item.unseen)
            case Folded():
                self.position = self.position.folded(item.begin_us)
        return False

    def again(self, **changes: Any) -> Reading:  # noqa: ANN401 - any field
        """From the same position, with nothing read yet."""
        return replace(self, records=[], damage=[], lost=[], duplicates=0, **changes)


class Written:
    """A feed that is being written, a reading of it, and the ids that ought to have come."""

    def __init__(self, limits: ReadLimits | None = None, version: int = 5, codec: str = "null") -> None:
        self.feed = Feed(version=version, codec=codec)
        self.blobs = MemoryBlobs(self.feed.blobs)
        self.reading = Reading(self.blobs, limits or ReadLimits())
        self.ids: list[str] = []

    def append(self, segment: int, count: int, *, shard: int = 0, chunk: int = 0, minute: int = 0) -> str:
        """*count* new records in one block."""
        new = [record(len(self.ids) + one, f"k{len(self.ids) + one}", hour(segment, minute)) for one in range(count)]
        self.ids += [one["id"] for one in new]
        return self.feed.append(hour(segment, minute), new, shard=shard, chunk=chunk)

    @property
    def got(self) -> list[str]:
        """What came, sorted."""
        return sorted(one["id"] for one in self.reading.records)
