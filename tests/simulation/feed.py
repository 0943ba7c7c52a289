"""The Blob change feed of a world: it tells of everything, late, in hours and shards, and is read through the real reader."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import md5
from random import Random
from typing import Any

from federation.errors import NotPresent, RetryLater
from federation.keys import encode, policy_for
from federation.model import SECOND_US, ListEntry, Side, Stamp
from federation.progress import Cursor
from federation.sources.change_feed_position import ChunkPosition, load
from tests.feed.writer import Feed, header, record
from tests.simulation.channels import ACCOUNT, CONTAINER, Told
from tests.simulation.script import Rates
from tests.simulation.sides import Server

SHARDS = 2
HOUR_SECONDS = 60
"""How long an hour of the feed is in a simulated world, so that many end within it."""
SLACK_SECONDS = 10
"""How early or late the hour is that a record falls into: a quarter of an hour in truth (facts/azure.md 2.2)."""
_HOUR, _SLACK = timedelta(seconds=HOUR_SECONDS), timedelta(seconds=SLACK_SECONDS)
_HEADER_BYTES = len(header())


@dataclass(slots=True)
class _Block:
    """One append to a chunk."""

    start: int
    end: int
    tolds: list[Told]


@dataclass(slots=True)
class _Waiting:
    """Happened, and not yet in the feed."""

    told: Told
    record: dict[str, Any]
    at: datetime
    begin: datetime | None = None
    """The hour it falls into; None: the one that is open when it is published."""


@dataclass
class FeedLog:
    """What the service writes. *lag_seconds*: how late at most.

    An hour opens some time after its begin by the service's clock; its index moves then, and the hour before is finalized. What
    happened within the slack around a begin falls into either hour, also just after the earlier one was finalized.
    """

    rng: Random
    lag_seconds: float
    rates: Callable[[], Rates]
    count: Callable[[str], None]
    now_us: Callable[[], int]
    """Of the service."""
    feed: Feed = field(default_factory=Feed)
    waiting: list[_Waiting] = field(default_factory=list)
    told: int = 0
    _blocks: dict[str, list[_Block]] = field(default_factory=dict)
    _hours: list[datetime] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open(self._time(self.now_us()).replace(second=0, microsecond=0))

    def note(self, told: Told, kind: str, etag: str | None, at_us: int, *, versioned: bool) -> None:
        """Something happened to a blob."""
        self.told += 1
        at = self._time(at_us)
        version = at.isoformat() if versioned and etag is not None else None
        named = encode(told.key, policy_for(Side.BLOB))
        one = record(self.told, named, at, container=CONTAINER, kind=kind, etag=etag or "0x0", blobVersion=version)
        self.waiting.append(_Waiting(told, one | {"topic": ACCOUNT}, at))
        self._later(self.rng.uniform(0, self.lag_seconds), self._publish)

    def retention(self) -> None:
        """All hours but the last are taken away, read or not."""
        for begin in self._hours[:-1]:
            self.feed.drop(begin)
        self._hours = self._hours[-1:]
        self._blocks = {name: blocks for name, blocks in self._blocks.items() if name in self.feed.blobs}

    def read_to(self, cursor: Cursor | None) -> list[Told]:
        """What *cursor* has passed, of what it wants."""
        from_us = load(cursor.position).from_us if cursor is not None else 0
        passed = [told for name, at in self._positions(cursor) for told in self._passed(name, at)]
        return [told for told in passed if told.at_us >= from_us]

    def moved(self, before: Cursor | None, after: Cursor) -> Counter[str]:
        """What a move of the cursor says was done: hours folded or found lost, records read."""
        old, new = load(before.position) if before is not None else None, load(after.position)
        done = Counter({"feed records read": len(self.read_to(after)) - len(self.read_to(before))})
        if old is not None:
            gone = [one for name, one in old.chunks.items() if name not in new.chunks and one.segment_us > new.done_us]
            done["feed hours folded"] = (
                max(0, new.done_us - old.done_us) // (HOUR_SECONDS * SECOND_US) if old.seen else int(new.seen)
            )
            done["feed hours lost"] = int(bool(gone) or (old.seen and not new.seen))
            done["feed watermark moved"] = int(new.as_of_us > old.as_of_us)
        return +done

    def unread(self, cursor: Cursor | None) -> bool:
        """Whether there is more than *cursor* has passed."""
        return bool(self.waiting) or any(at.offset < self._blocks[name][-1].end for name, at in self._positions(cursor))

    # ------------------------------------------------------------------------------------------------------------- writing

    @staticmethod
    def _later(seconds: float, step: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, step, context=Context())

    def _publish(self) -> None:
        """What waits, as far as it may be in an hour that is there."""
        end = self._hours[-1] + _HOUR + _SLACK
        due = [one for one in self.waiting if one.at < end]
        self.waiting = [one for one in self.waiting if one.at >= end]
        by_chunk: dict[tuple[datetime, int], list[_Waiting]] = {}
        for one in due:
            begin = one.begin if one.begin in self._hours else self._hours[-1]
            by_chunk.setdefault((begin, sum(one.told.key.encode()) % SHARDS), []).append(one)
        for (begin, shard), some in sorted(by_chunk.items()):
            self._append(begin, shard, [(one.told, one.record) for one in some])

    def _roll(self) -> None:
        """The next hour opens; what happened clearly before its begin is in the one before."""
        old, begin = self._hours[-1], self._hours[-1] + _HOUR
        kept = [one for one in self.waiting if one.at >= begin + _SLACK or (one.at >= begin - _SLACK and self.rng.random() < 0.5)]
        self.waiting = [one for one in self.waiting if one not in kept]
        self._publish()
        self.waiting = kept
        self._open(begin)
        for one in kept:
            if one.at < begin + _SLACK and self.rng.random() < 0.5:
                one.begin = old
        self._later(self.rng.uniform(0, SLACK_SECONDS), self._publish)

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
        """A new hour; the one before gets no more records, or hardly any."""
        if self._hours:
            self.feed.segment(self._hours[-1], shards=SHARDS, finalized=True, seconds=HOUR_SECONDS)
        self._hours.append(begin)
        self.feed.segment(begin, shards=SHARDS, seconds=HOUR_SECONDS)
        self.feed.index(begin)
        left = (begin + _HOUR - self._time(self.now_us())).total_seconds()
        self._later(max(0.0, left + self.rng.uniform(0, max(self.lag_seconds, SLACK_SECONDS))), self._roll)

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
        if rng.random() < rates.slow:
            self._count("feed call slow")
            await asyncio.sleep(rng.uniform(1, 20))
        away = asyncio.get_running_loop().time() < self._server.away_until
        if away or rng.random() < rates.call_before:
            self._count("feed call failed")
            raise RetryLater("no answer", reason="unreachable", side=Side.BLOB)

    async def _back(self) -> None:
        rates, rng = self._rates(), self._rng
        await asyncio.sleep(rng.uniform(0, rates.latency_seconds))
        if rng.random() < rates.call_after:
            self._count("feed answer lost")
            raise RetryLater("the answer was lost", reason="cut_short", side=Side.BLOB)

    async def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """As in the protocol."""
        await self._go()
        data = self._log.feed.blobs.get(name)
        if data is None:
            raise NotPresent("not there", reason="not_present", key=name)
        await self._back()
        return data[start:] if length is None else data[start : start + length]

    async def entries(self, prefix: str) -> AsyncIterator[ListEntry]:
        """As in the protocol."""
        await self._go()
        for name, data in sorted(self._log.feed.blobs.items()):
            if self._rng.random() < self._rates().listing_cut / 8:
                self._count("feed listing cut short")
                raise RetryLater("the listing was cut short", reason="cut_short", side=Side.BLOB)
            if name.startswith(prefix):
                yield ListEntry(name, md5(data, usedforsecurity=False).hexdigest(), len(data), Stamp(0))

    async def close(self) -> None:
        """Nothing to release."""
