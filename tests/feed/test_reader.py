"""Reading a feed: everything that no recording holds (facts/azure.md 2.2 to 2.7), with feeds written by ``writer``."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest

from federation.errors import RetryLater
from federation.sources.change_feed_chunk import Piece, ReadLimits
from federation.sources.change_feed_layout import SLACK_US
from federation.sources.change_feed_position import ChunkPosition, start_at
from federation.sources.change_feed_reader import FeedReader
from tests.feed.memory import Written
from tests.feed.writer import header, hour, record

SEVEN = ReadLimits(lanes=2, segments_at_once=2, piece_records=7)


def _us(segment: int) -> int:
    return int(hour(segment).timestamp()) * 1_000_000


@pytest.mark.parametrize("codec", ["null", "deflate"])
@pytest.mark.parametrize("version", [5, 8])
async def test_shards_chunks_and_odd_minutes(codec: str, version: int) -> None:
    """Several shards and chunks, segments off the hour, later schema versions: each record once, in sittings of any size."""
    made = Written(version=version, codec=codec)
    for segment, minute in ((1, 0), (2, 10), (3, 45)):
        made.feed.segment(hour(segment, minute), shards=3, finalized=segment < 3)
        for shard in range(3):
            for chunk in range(1 + shard):
                for count in (1, 20, 9):
                    made.append(segment, count, shard=shard, chunk=chunk, minute=minute)
    made.feed.placeholder()
    made.feed.markers()
    made.feed.index(hour(3, 45))
    made.blobs.blobs = made.feed.blobs
    await made.reading.all()
    assert made.got == sorted(made.ids)
    sevens = made.reading.again(limits=SEVEN, position=start_at(0))
    await sevens.stopping()
    assert sorted(one["id"] for one in sevens.records) == sorted(made.ids)
    assert (sevens.lost, sevens.damage, made.reading.lost, made.reading.damage) == ([], [], [], [])


async def test_segments_after_last_consumable_wait() -> None:
    """The index bounds what is read; what it names is read though it is Publishing."""
    made = Written()
    for segment in (1, 2, 3):
        made.feed.segment(hour(segment), finalized=segment == 1)
        made.append(segment, 10)
    made.feed.index(hour(2))
    await made.reading.all()
    assert made.got == sorted(made.ids[:20])
    made.feed.index(hour(3))
    assert await made.reading.all() == made.ids[20:]


async def test_the_first_segment_ever_is_read_though_the_index_never_names_it() -> None:
    """While the index names nothing that is there, the feed's first segment is read once it is Finalized, others are not."""
    made = Written()
    made.feed.placeholder()
    made.feed.segment(hour(1))
    made.append(1, 5)
    made.feed.segment(hour(2))
    made.append(2, 5)
    made.feed.index(hour(0))
    assert await made.reading.all() == []
    made.feed.segment(hour(1), finalized=True)
    assert await made.reading.all() == made.ids[:5]
    assert await made.reading.all() == []
    made.feed.index(hour(2))
    assert await made.reading.all() == made.ids[5:]
    assert made.reading.lost == []


async def test_a_publishing_segment_is_tailed() -> None:
    """Blocks, chunks and shards that come later are read when they are there; nothing comes twice."""
    made = Written()
    made.feed.segment(hour(1), shards=2)
    made.feed.index(hour(1))
    assert await made.reading.all() == []
    made.append(1, 3)
    assert await made.reading.all() == made.ids
    made.append(1, 3)
    made.append(1, 4, shard=1)
    assert sorted(await made.reading.all()) == made.ids[3:]
    made.feed.segment(hour(1), shards=3)
    made.append(1, 5, chunk=1)
    made.append(1, 6, shard=2)
    assert sorted(await made.reading.all()) == made.ids[10:]
    assert made.got == sorted(made.ids)


async def test_an_earlier_segment_may_grow_until_it_is_closed() -> None:
    """A Finalized segment is looked at again until the index is an hour and a slack past its begin; then it is folded."""
    made = Written()
    made.feed.segment(hour(1), finalized=True)
    made.append(1, 3)
    made.feed.segment(hour(2))
    made.append(2, 3)
    made.feed.index(hour(2))
    await made.reading.all()
    assert made.reading.position.done_us == 0
    made.append(1, 2)
    assert await made.reading.all() == made.ids[6:]
    made.feed.segment(hour(2), finalized=True)
    made.feed.segment(hour(3))
    made.feed.index(hour(3))
    await made.reading.all()
    assert (made.reading.position.done_us, made.reading.position.seen) == (_us(1), True)
    assert made.reading.position.segments == {_us(2)}


async def test_a_segment_is_folded_only_behind_all_before_it() -> None:
    """One segment that is still open keeps those after it from being folded."""
    made = Written()
    for segment in range(1, 6):
        made.feed.segment(hour(segment), finalized=segment != 3)
        made.append(segment, 2)
    made.feed.index(hour(9))
    await made.reading.all()
    assert made.reading.position.done_us == _us(2)
    made.feed.segment(hour(3), finalized=True)
    assert await made.reading.all() == []
    assert made.reading.position.done_us == _us(5)
    assert made.reading.position.chunks == {}


async def test_empty_and_unfinished_chunks_are_waited_for() -> None:
    """A chunk of no length, of part of a header, of a header alone, or cut inside a block ends nothing and loses nothing."""
    made = Written()
    made.feed.segment(hour(1), shards=2)
    made.feed.index(hour(1))
    name = made.append(1, 50)
    made.append(1, 50)
    whole = made.feed.blobs[name]
    made.append(1, 1, shard=1)
    first = len(header())
    for size in (0, 1, 3, 100, first - 1, first, first + 1, first + 2, len(whole) // 2, len(whole) - 17, len(whole) - 1):
        made.feed.blobs[name] = whole[:size]
        await made.reading.all()
        assert (made.reading.damage, made.reading.lost) == ([], [])
        assert made.reading.unread_bytes == 0 or size not in (0, first)
    made.feed.blobs[name] = whole
    await made.reading.all()
    assert made.got == sorted(made.ids)
    assert made.reading.unread_bytes == 0


@pytest.mark.parametrize("window", [64, 1000, 5000])
async def test_blocks_larger_than_a_ranged_read(window: int) -> None:
    """A block of any size is read whole, in as many requests as it takes, and cut into pieces with positions inside it."""
    made = Written(ReadLimits(window_bytes=window, piece_records=7))
    made.feed.segment(hour(1))
    made.feed.index(hour(1))
    for count in (100, 1, 50):
        made.append(1, count)
    await made.reading.stopping()
    assert [one["id"] for one in made.reading.records] == made.ids


async def test_no_byte_is_read_again() -> None:
    """As a chunk grows, each ranged read starts where the one before ended; only the header is asked for by a new reader."""
    made = Written()
    made.feed.segment(hour(1))
    made.feed.index(hour(1))
    for _ in range(5):
        name = made.append(1, 60)
        before = len(made.blobs.ranges)
        await made.reading.all()
        new = [one for one in made.blobs.ranges[before:] if one[1]]
        assert all(start >= len(made.feed.blobs[name]) - length for _, start, length in new)
        assert len(made.blobs.ranges) - before <= 2


async def test_nothing_new_costs_no_chunk_read() -> None:
    """A pass over an unchanged feed reads the index, lists, and asks for no manifest and no chunk again."""
    made = Written()
    made.feed.segment(hour(1))
    made.append(1, 3)
    made.feed.index(hour(1))
    reader = FeedReader(made.blobs, len)
    position = made.reading.position
    for expected in (3, 1):
        made.blobs.requests.clear()
        async for item in reader.sweep(position):
            assert isinstance(item, Piece)
            position = position.read({item.chunk: item.position})
        assert made.blobs.requests["read"] == expected
    reader.close()


async def test_doubles_are_dropped_also_across_a_restart() -> None:
    """A record repeated in the next block is handed over once (facts/azure.md 2.6), wherever reading was stopped."""
    made = Written()
    made.feed.segment(hour(1))
    made.feed.index(hour(1))
    one, two = (record(number, "k", hour(1)) for number in (1, 2))
    made.feed.append(hour(1), [one])
    await made.reading.all()
    made.feed.append(hour(1), [one])
    made.feed.append(hour(1), [two, two])
    assert await made.reading.all() == [two["id"]]
    assert made.reading.duplicates == 2


async def test_a_start_time_is_read_from_the_segment_before() -> None:
    """A segment's time is right to a quarter of an hour only: one segment more is read on either side."""
    made = Written()
    for segment in range(1, 8):
        made.feed.segment(hour(segment), finalized=True)
        made.append(segment, 1)
    made.feed.index(hour(9))
    made.reading.position = start_at(_us(4) + 60_000_000)
    await made.reading.all()
    assert made.got == sorted(made.ids[2:])
    reader = FeedReader(made.blobs, lambda records: [one["id"] for one in records])
    async with aclosing(reader.sweep(start_at(_us(4)), until_us=_us(5))) as items:
        seen = [identity async for item in items for identity in getattr(item, "payload", [])]
    reader.close()
    assert seen == made.ids[2:6]


async def test_as_of_never_runs_ahead() -> None:
    """The watermark is a slack before the first segment that still grows, and is said only where nothing is left unread."""
    made = Written()
    for segment in (1, 2, 3):
        made.feed.segment(hour(segment), finalized=segment == 1)
        made.append(segment, 3)
    made.feed.index(hour(3))
    await made.reading.all()
    assert (made.reading.as_of_us, made.reading.unread_bytes) == (_us(2) - SLACK_US, 0)
    await made.reading.some(1)
    name = made.append(3, 3)
    made.feed.blobs[name] = made.feed.blobs[name][:-1]
    await made.reading.all()
    assert made.reading.unread_bytes > 0


async def test_memory_is_bounded_when_nobody_takes() -> None:
    """With nobody taking the pieces, no more of the chunks is read than the lanes and the queue hold."""
    limits = ReadLimits(lanes=2, window_bytes=20_000, piece_records=10)
    made = Written(limits)
    made.feed.segment(hour(1), shards=8)
    made.feed.index(hour(1))
    for shard in range(8):
        for _ in range(20):
            made.append(1, 10, shard=shard)
    reader = FeedReader(made.blobs, len, limits)
    async with aclosing(reader.sweep(start_at(0))) as items:
        await anext(items)
        read = sum(length for _, _, length in made.blobs.ranges)
    reader.close()
    assert read <= 4 * limits.window_bytes


@pytest.mark.parametrize("steps", range(9))
async def test_a_pass_ends_when_its_taker_leaves_while_a_lane_fails(steps: int) -> None:
    """At whatever step of the failure he leaves, and though nobody empties the queue, which is full: nobody waits for ever."""
    made = Written()
    made.feed.segment(hour(1))
    made.feed.index(hour(1))
    reader = FeedReader(made.blobs, len, ReadLimits(lanes=1))
    failing = asyncio.Event()

    async def read(_survey: object, _position: object, queue: asyncio.Queue[object]) -> None:
        async def fill() -> None:
            while True:
                await queue.put(Piece("chunk", start, None, 1, 0))

        async def fail() -> None:
            await failing.wait()
            raise RetryLater("away")

        start = ChunkPosition(1, 0)
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(fill())
            lanes.create_task(fail())

    reader._read = read  # type: ignore[method-assign, assignment]
    async with asyncio.timeout(10):
        async with aclosing(reader.sweep(start_at(0))) as items:
            await anext(items)
            failing.set()
            for _ in range(steps):
                await asyncio.sleep(0)
    reader.close()


@pytest.mark.parametrize("seed", range(25))
async def test_any_growth_and_any_stops_bring_each_record_once(seed: int) -> None:
    """Whatever grows between and during passes that are abandoned at any piece: nothing is lost, nothing comes twice."""
    chance = random.Random(seed)  # noqa: S311 - repeatable chance
    made = Written(ReadLimits(lanes=chance.randint(1, 4), window_bytes=chance.choice([200, 4000, 10**6]), piece_records=7))
    newest = 0
    for _ in range(40):
        if chance.random() < 0.2 or newest == 0:
            if newest:
                made.feed.segment(hour(newest), shards=3, finalized=True)
            newest += chance.choice([1, 1, 3])
            made.feed.segment(hour(newest), shards=chance.randint(1, 3))
            made.feed.index(hour(newest))
        made.feed.segment(hour(newest), shards=3)
        made.append(newest, chance.randint(1, 30), shard=chance.randrange(3), chunk=chance.randrange(2))
        if chance.random() < 0.7:
            await made.reading.some(chance.randint(1, 9))
    await made.reading.all()
    assert made.got == sorted(made.ids)
    assert (made.reading.lost, made.reading.damage, made.reading.duplicates) == ([], [], 0)
