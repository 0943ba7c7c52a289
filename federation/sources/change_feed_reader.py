"""One pass over everything in the feed that may be read and was not: segments and shards in parallel, memory bounded.

Positions only go forward with what was handed over: whoever takes the items applies them to the position after their effect.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from federation.sources.change_feed_chunk import ChunkReader, Damage, Decoder, Piece, ReadLimits, Records, T
from federation.sources.change_feed_index import Chunk, FeedBlobs, FeedIndex, OpenSegment, Segment, Survey
from federation.sources.change_feed_layout import SLACK_US
from federation.sources.change_feed_position import ChunkPosition, FeedPosition


@dataclass(frozen=True, slots=True)
class Lost:
    """Something that reading relied on is gone or began anew: what it held is for a scan to find."""

    reason: str
    chunks: frozenset[str]
    unseen: bool


@dataclass(frozen=True, slots=True)
class Folded:
    """All segments up to and including this one are done with: closed, and handed over to their ends."""

    begin_us: int


Item = Piece[T] | Damage | Lost | Folded
Items = asyncio.Queue[Item[T] | Exception | None]


class _Order:
    """Which segments are done with, though they end in any order."""

    def __init__(self, begins: Sequence[int]) -> None:
        self._waiting = deque(begins)
        self._closed: set[int] = set()

    def ended(self, begin_us: int, *, closed: bool) -> int | None:
        """The last segment that is done with now; None: no further one."""
        if closed:
            self._closed.add(begin_us)
        done = None
        while self._waiting and self._waiting[0] in self._closed:
            done = self._waiting.popleft()
        return done


@dataclass(slots=True)
class Progress:
    """What a pass saw, for people."""

    last_consumable_us: int = 0
    index_modified_us: int | None = None
    unread_bytes: int = 0
    """Found and not yet handed over; of the segments opened so far."""
    segments_waiting: int = 0
    """Not opened yet."""
    as_of_us: int = 0
    """Set at the end of a pass that left nothing: every change of before this was handed over."""


class FeedReader(Generic[T]):
    """Makes payloads of records with *make* (in a thread). For one taker; after a fault start over with a new one."""

    def __init__(self, blobs: FeedBlobs, make: Callable[[Records], T], limits: ReadLimits | None = None) -> None:
        self._limits = limits or ReadLimits()
        self._index = FeedIndex(blobs)
        self._decoder = Decoder(make, self._limits.piece_records)
        self._chunks = ChunkReader(blobs, self._decoder, self._limits)
        self._lanes = asyncio.Semaphore(self._limits.lanes)
        self.progress = Progress()

    def close(self) -> None:
        """End the thread."""
        self._decoder.thread.shutdown(wait=False, cancel_futures=True)

    async def sweep(self, position: FeedPosition, *, until_us: int | None = None) -> AsyncGenerator[Item[T], None]:
        """Everything from *position* on, each chunk and shard in its order. Raises FederationError; then nothing is known."""
        for chunk in position.chunks.values():
            self._decoder.ids.update(chunk.recent)
        queue: Items[T] = asyncio.Queue(2 * self._limits.lanes)
        left = asyncio.Event()
        producer = asyncio.create_task(self._produce(position, until_us, queue, left))
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Piece | Damage):
                    before = position.chunks.get(item.chunk)
                    self.progress.unread_bytes -= item.position.offset - (before.offset if before is not None else 0)
                    position = position.read({item.chunk: item.position})
                elif isinstance(item, Lost):
                    position = position.without(item.chunks, unseen=item.unseen)
                yield item
        finally:
            left.set()
            producer.cancel()
            await asyncio.gather(producer, return_exceptions=True)

    async def _produce(self, position: FeedPosition, until_us: int | None, queue: Items[T], left: asyncio.Event) -> None:
        try:
            self._index.forget(position.done_us)
            survey = await self._index.survey(position, until_us)
            self.progress = Progress(survey.index.last_consumable_us, survey.index.modified_us)
            if survey.gone:
                gone = frozenset(name for name, one in position.chunks.items() if one.segment_us in survey.gone_segments)
                await queue.put(Lost(survey.gone, gone, unseen=True))
                position = position.without(gone, unseen=True)
            await self._read(survey, position, queue)
        except* Exception as faults:  # noqa: BLE001 - handed to the taker, who decides
            # A task group that ends by a fault loses the cancellation by a taker who left: nobody would empty the queue.
            if not left.is_set():
                await queue.put(_first(faults))
        else:
            await queue.put(None)

    async def _read(self, survey: Survey, position: FeedPosition, queue: Items[T]) -> None:
        size = self._limits.segments_at_once
        groups = [survey.segments[start : start + size] for start in range(0, len(survey.segments), size)]
        order = _Order([segment.begin_us for segment in survey.segments])
        self.progress.segments_waiting = len(survey.segments)
        growing: list[int] = []
        ahead = self._opening(groups[:1], survey)
        try:
            for number in range(len(groups)):
                segments = await ahead
                # The next ones are looked at while these are read.
                ahead = self._opening(groups[number + 1 : number + 2], survey)
                self.progress.segments_waiting -= len(segments)
                position = await self._missing_chunks(position, segments, queue)
                self.progress.unread_bytes += sum(_unread(position, chunk) for one in segments for chunk in one.chunks)
                async with asyncio.TaskGroup() as tasks:
                    for segment in segments:
                        self._start(tasks, segment, position, order, queue)
                growing += [segment.begin_us for segment in segments if not segment.finalized]
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
        self.progress.as_of_us = min([survey.index.last_consumable_us, *growing]) - SLACK_US

    def _opening(self, groups: Sequence[Sequence[Segment]], survey: Survey) -> asyncio.Task[list[OpenSegment]]:
        segments = [segment for group in groups for segment in group]
        return asyncio.create_task(self._index.open(segments, survey.index.last_consumable_us))

    def _start(
        self, tasks: asyncio.TaskGroup, segment: OpenSegment, position: FeedPosition, order: _Order, queue: Items[T]
    ) -> None:
        """One lane for each shard with something unread; the last to end says that the segment is read."""
        lanes = [[chunk for chunk in shard if _unread(position, chunk) > 0] for shard in segment.shards]
        running = max(1, len(lanes))

        async def lane(chunks: Sequence[Chunk]) -> None:
            nonlocal running
            async with self._lanes:
                for chunk in chunks:
                    at = position.chunks.get(chunk.name) or ChunkPosition(segment.begin_us, 0)
                    async for item in self._chunks.pieces(chunk, at, closing=segment.closing):
                        await queue.put(item)
            running -= 1
            done = order.ended(segment.begin_us, closed=segment.closing) if not running else None
            if done is not None:
                await queue.put(Folded(done))

        for chunks in lanes or [[]]:
            tasks.create_task(lane(chunks))

    @staticmethod
    async def _missing_chunks(position: FeedPosition, segments: Sequence[OpenSegment], queue: Items[T]) -> FeedPosition:
        """Forget what is gone or became shorter: then the feed is another one."""
        opened = {segment.begin_us for segment in segments}
        sizes = {chunk.name: chunk.size_bytes for segment in segments for chunk in segment.chunks}
        gone = frozenset(
            name for name, at in position.chunks.items() if at.segment_us in opened and sizes.get(name, -1) < at.offset
        )
        if not gone:
            return position
        await queue.put(Lost("a chunk that was read is gone or became shorter", gone, unseen=False))
        return position.without(gone, unseen=False)


def _unread(position: FeedPosition, chunk: Chunk) -> int:
    at = position.chunks.get(chunk.name)
    return chunk.size_bytes - (at.offset if at is not None else 0)


def _first(faults: BaseExceptionGroup[Exception]) -> Exception:
    """The first fault inside, however deep the groups."""
    found: BaseException = faults
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)  # noqa: S101 - a group of exceptions holds nothing else
    return found
