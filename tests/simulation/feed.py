"""The Blob change feed of a world: it tells of everything, late, in hours and shards, and is read through the real reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import md5
from random import Random
from typing import Any

from federation.errors import NotPresent, RetryLater
from federation.keys import encode, policy_for
from federation.model import ListEntry, Side, Stamp
from federation.progress import Cursor
from federation.sources.change_feed_position import ChunkPosition, load
from tests.feed.writer import Feed, header, record
from tests.simulation.channels import ACCOUNT, CONTAINER, Told
from tests.simulation.script import Rates
from tests.simulation.sides import START_US, Server

SHARDS = 2
_HOUR = timedelta(hours=1)
_HEADER_BYTES = len(header())


@dataclass(slots=True)
class _Block:
    """One append to a chunk."""

    start: int
    end: int
    tolds: list[Told]


@dataclass
class FeedLog:
    """What the service writes. *lag_seconds*: how late at most."""

    rng: Random
    lag_seconds: float
    rates: Callable[[], Rates]
    count: Callable[[str], None]
    now_us: Callable[[], int]
    """Of the service."""
    feed: Feed = field(default_factory=Feed)
    waiting: list[tuple[Told, dict[str, Any], datetime]] = field(default_factory=list)
    """Not yet in the feed: what happened, its record, and the hour it belongs to."""
    told: int = 0
    _blocks: dict[str, list[_Block]] = field(default_factory=dict)
    _hours: list[datetime] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Segments may begin at odd minutes (facts/azure.md 2.2); so an hour ends within many a world.
        self._first = datetime.fromtimestamp(START_US // 1_000_000, UTC).replace(second=0) - timedelta(
            minutes=self.rng.choice([5, 58, 59])
        )
        self._open(self._hour_of(self._time(self.now_us())))

    def note(self, told: Told, kind: str, etag: str | None, at_us: int, *, versioned: bool) -> None:
        """Something happened to a blob."""
        self.told += 1
        at = self._time(at_us)
        version = at.isoformat() if versioned and etag is not None else None
        named = encode(told.key, policy_for(Side.BLOB))
        one = record(self.told, named, at, container=CONTAINER, kind=kind, etag=etag or "0x0", blobVersion=version)
        if not self.waiting:
            loop = asyncio.get_running_loop()
            loop.call_later(self.rng.uniform(0, self.lag_seconds), self._publish, context=Context())
        self.waiting.append((told, one | {"topic": ACCOUNT}, self._hour_of(at)))

    def retention(self) -> None:
        """All hours but the last are taken away, read or not."""
        for begin in self._hours[:-1]:
            self.feed.drop(begin)
        self._hours = self._hours[-1:]
        self._blocks = {name: blocks for name, blocks in self._blocks.items() if name in self.feed.blobs}

    def read_to(self, cursor: Cursor | None) -> list[Told]:
        """What *cursor* has passed."""
        return [told for name, at in self._positions(cursor) for told in self._passed(name, at)]

    def unread(self, cursor: Cursor | None) -> bool:
        """Whether there is more than *cursor* has passed."""
        return bool(self.waiting) or any(at.offset < self._blocks[name][-1].end for name, at in self._positions(cursor))

    # ------------------------------------------------------------------------------------------------------------- writing

    def _publish(self) -> None:
        due, self.waiting = self.waiting, []
        by_chunk: dict[tuple[datetime, int], list[tuple[Told, dict[str, Any]]]] = {}
        for told, one, begin in due:
            by_chunk.setdefault((begin, sum(told.key.encode()) % SHARDS), []).append((told, one))
        for (begin, shard), some in sorted(by_chunk.items()):
            if begin > self._hours[-1]:
                self._open(begin)
            self._append(begin, shard, some)
        self.feed.index(self._hours[-1])

    def _append(self, begin: datetime, shard: int, some: list[tuple[Told, dict[str, Any]]]) -> None:
        written = []
        for told, one in some:
            written.append((told, one))
            if self.rng.random() < self.rates().event_twice:
                self.count("feed record doubled")
                written.append((told, one))
        name = self.feed.append(begin, [one for _, one in written], shard=shard)
        blocks = self._blocks.setdefault(name, [])
        start = blocks[-1].end if blocks else _HEADER_BYTES
        blocks.append(_Block(start, len(self.feed.blobs[name]), [told for told, _ in written]))

    def _open(self, begin: datetime) -> None:
        """A new hour; the one before gets no more records."""
        if self._hours:
            self.feed.segment(self._hours[-1], shards=SHARDS, finalized=True)
        self._hours.append(begin)
        self.feed.segment(begin, shards=SHARDS)
        self.feed.index(begin)

    def _hour_of(self, at: datetime) -> datetime:
        return self._first + ((at - self._first) // _HOUR) * _HOUR

    @staticmethod
    def _time(at_us: int) -> datetime:
        return datetime.fromtimestamp(at_us / 1e6, UTC)

    # ------------------------------------------------------------------------------------------------------------- reading

    def _positions(self, cursor: Cursor | None) -> list[tuple[str, ChunkPosition]]:
        """How far each chunk that there is was read."""
        position = load(cursor.position) if cursor is not None else None
        found = []
        for name, blocks in self._blocks.items():
            at = position.chunks.get(name) if position is not None else None
            folded = position is not None and self._begin_us(name) <= position.done_us
            found.append((name, ChunkPosition(0, blocks[-1].end) if folded else at or ChunkPosition(0, 0)))
        return found

    def _passed(self, name: str, at: ChunkPosition) -> list[Told]:
        blocks = self._blocks[name]
        whole = [told for block in blocks if block.end <= at.offset for told in block.tolds]
        return whole + [told for block in blocks if block.start == at.offset for told in block.tolds[: at.index]]

    @staticmethod
    def _begin_us(name: str) -> int:
        return int(datetime.strptime(f"{name[7:22]}Z", "%Y/%m/%d/%H%M%z").timestamp()) * 1_000_000


class FeedEnd:
    """``FeedBlobs`` of one process."""

    def __init__(
        self, log: FeedLog, server: Server, rng: Random, rates: Callable[[], Rates], count: Callable[[str], None]
    ) -> None:
        self._log = log
        self._server = server
        self._rng = rng
        self._rates = rates
        self._count = count

    async def _go(self) -> None:
        rates, rng = self._rates(), self._rng
        await asyncio.sleep(rng.uniform(0, rates.latency_seconds))
        away = asyncio.get_running_loop().time() < self._server.away_until
        if away or rng.random() < rates.call_before:
            self._count("feed call failed")
            raise RetryLater("no answer", reason="unreachable", side=Side.BLOB)

    async def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """As in the protocol."""
        await self._go()
        data = self._log.feed.blobs.get(name)
        if data is None:
            raise NotPresent("not there", reason="not_present", key=name)
        return data[start:] if length is None else data[start : start + length]

    async def entries(self, prefix: str) -> AsyncIterator[ListEntry]:
        """As in the protocol."""
        await self._go()
        for name, data in sorted(self._log.feed.blobs.items()):
            if name.startswith(prefix):
                yield ListEntry(name, md5(data, usedforsecurity=False).hexdigest(), len(data), Stamp(0))

    async def close(self) -> None:
        """Nothing to release."""
