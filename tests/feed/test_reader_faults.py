"""Reading a feed that is damaged, cut by retention, or refused: that is said, and never the end (facts/azure.md 2.3 and 2.7)."""

from __future__ import annotations

import pytest

from federation.errors import Halt, RetryLater
from federation.sources.change_feed_chunk import ReadLimits
from federation.sources.change_feed_layout import INDEX
from tests.feed.memory import Written
from tests.feed.writer import SYNC, hour, manifest_name, record, shard_path

SEVEN = ReadLimits(piece_records=7)


def _us(segment: int) -> int:
    return int(hour(segment).timestamp()) * 1_000_000


@pytest.mark.parametrize("part", ["sync", "size", "body"])
async def test_damage_is_told_and_passed(part: str) -> None:
    """What cannot be read is handed over with place and reason; other blocks and chunks come all the same."""
    made = Written()
    made.feed.segment(hour(1), shards=2, finalized=True)
    made.feed.index(hour(9))
    name = made.append(1, 5)
    start = len(made.feed.blobs[name])
    made.append(1, 5)
    broken = bytearray(made.feed.blobs[name])
    at = {"sync": len(broken) - 1, "size": start + 1, "body": start + 40}[part]
    if part == "body":
        broken[start + 3 : -len(SYNC)] = b"\xff" * (len(broken) - len(SYNC) - start - 3)
    else:
        broken[at] ^= 0x41
    made.feed.blobs[name] = bytes(broken)
    made.append(1, 5, shard=1)
    await made.reading.all()
    assert made.got == sorted(made.ids[:5] + made.ids[10:])
    [damage] = made.reading.damage
    assert (damage.chunk, damage.offset) == (name, start)
    assert damage.reason
    assert damage.raw


async def test_a_block_cut_off_for_good_is_damage() -> None:
    """When a segment is closed and its last block still is not whole, that is said and the segment folded."""
    made = Written()
    made.feed.segment(hour(1), finalized=True)
    name = made.append(1, 5)
    made.feed.blobs[name] = made.feed.blobs[name][:-3]
    made.feed.index(hour(1))
    await made.reading.all()
    assert made.reading.damage == []
    made.feed.index(hour(3))
    await made.reading.all()
    assert [one.reason for one in made.reading.damage] == ["the chunk ends inside a block"]
    assert made.reading.position.done_us == _us(1)


@pytest.mark.parametrize("read", ["part of it", "all of it"])
async def test_retention_that_overtook_the_position_is_told(read: str) -> None:
    """When the segment that was read last, or one not read to its end, is gone, others may be: said once, and reading goes on."""
    made = Written(SEVEN)
    for segment in (1, 2):
        made.feed.segment(hour(segment), finalized=True)
        made.append(segment, 20)
    made.feed.index(hour(9))
    if read == "all of it":
        await made.reading.all()
        assert made.reading.position.seen
    else:
        await made.reading.some(1)
    for segment in (1, 2):
        made.feed.drop(hour(segment))
    made.blobs.blobs = made.feed.blobs
    made.feed.segment(hour(5), finalized=True)
    made.append(5, 3)
    got = await made.reading.all()
    assert got == made.ids[-3:]
    assert len(made.reading.lost) == 1
    await made.reading.all()
    assert len(made.reading.lost) == 1


async def test_retention_behind_the_position_is_nothing() -> None:
    """Segments that were folded may go, as long as the last of them is there."""
    made = Written()
    for segment in (1, 2, 3):
        made.feed.segment(hour(segment), finalized=True)
        made.append(segment, 2)
    made.feed.index(hour(9))
    await made.reading.all()
    made.feed.drop(hour(1))
    made.blobs.blobs = made.feed.blobs
    await made.reading.all()
    assert made.reading.lost == []


async def test_a_chunk_that_became_shorter_is_another_feed() -> None:
    """It is said, and the chunk is read from its beginning."""
    made = Written()
    made.feed.segment(hour(1))
    made.feed.index(hour(1))
    name = made.append(1, 20)
    await made.reading.all()
    made.feed.blobs.pop(name)
    fresh = record(999, "new", hour(1))
    made.feed.append(hour(1), [fresh])
    assert await made.reading.all() == [fresh["id"]]
    assert [one.chunks for one in made.reading.lost] == [frozenset({name})]


@pytest.mark.parametrize("what", ["index", "list", "manifest", "chunk"])
@pytest.mark.parametrize("fault", [RetryLater("busy", reason="throttled"), Halt("no", reason="credentials_refused")])
async def test_a_fault_is_a_fault(what: str, fault: RetryLater | Halt) -> None:
    """A refused request ends the pass with that error, never as "no more records"; afterwards reading goes on exactly."""
    made = Written()
    made.feed.segment(hour(1), finalized=True)
    made.append(1, 5)
    made.feed.index(hour(1))
    name = {
        "index": INDEX,
        "list": "idx/segments/",
        "manifest": manifest_name(hour(1)),
        "chunk": f"{shard_path(hour(1))}00000.avro",
    }[what]
    made.blobs.faults[name] = fault
    with pytest.raises(type(fault)) as caught:
        await made.reading.all()
    assert caught.value is fault
    made.blobs.faults.clear()
    assert await made.reading.all() == made.ids


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (INDEX, None),
        (INDEX, b""),
        (INDEX, b"[]"),
        (INDEX, b'{"lastConsumable": "soon"}'),
        (manifest_name(hour(1)), b"{"),
        (manifest_name(hour(1)), b'{"status": "Finalized", "chunkFilePaths": ["other/place/"]}'),
        (manifest_name(hour(1)), b'{"status": "Finalized"}'),
    ],
)
async def test_documents_that_are_none_are_faults(name: str, text: bytes | None) -> None:
    """A missing or unreadable index or manifest is never an empty feed; the error names it."""
    made = Written()
    made.feed.segment(hour(1), finalized=True)
    made.append(1, 5)
    made.feed.index(hour(1))
    right = made.feed.blobs.pop(name)
    if text is not None:
        made.feed.blobs[name] = text
    if text == b"":
        made.feed.blobs[name] = b" "
    with pytest.raises(RetryLater, match=name):
        await made.reading.all()
    made.feed.blobs[name] = right
    assert await made.reading.all() == made.ids
