"""The reader against feeds recorded from real accounts: each exactly, in any number of sittings, and while it grows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from federation.sources.change_feed_chunk import ReadLimits
from tests.feed import recordings
from tests.feed.memory import MemoryBlobs, Reading

FIXTURES = recordings.fixtures()
pytestmark = pytest.mark.skipif(not FIXTURES, reason="no recordings here: set FEDPLANE_CHANGEFEED_RECORDINGS")
SEVEN = ReadLimits(lanes=2, segments_at_once=2, piece_records=7)


def _wanted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each id once, without the recorder's own fields."""
    once = {row["id"]: {name: value for name, value in row.items() if not name.startswith("_")} for row in reversed(rows)}
    return sorted(once.values(), key=lambda row: str(row["id"]))


def _by_id(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(records, key=lambda row: str(row["id"]))


def _assert_order(rows: list[dict[str, Any]], got: list[str]) -> None:
    place = {row["id"]: (row["_chunk"], row["_index"]) for row in reversed(rows)}
    last: dict[str, int] = {}
    for one in got:
        chunk, index = place[one]
        assert index > last.get(chunk, -1)
        last[chunk] = index


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
async def test_each_recording_is_read_exactly(fixture: Path) -> None:
    """Every record once, every field as recorded, the records of a chunk in their order, nothing else."""
    reading = Reading(MemoryBlobs(recordings.container(fixture)))
    got = await reading.all()
    rows = recordings.expected(fixture)
    assert _by_id(reading.records) == _wanted(rows)
    assert reading.duplicates == len(rows) - len(got)
    assert (reading.damage, reading.lost, reading.unread_bytes) == ([], [], 0)
    _assert_order(rows, got)


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
async def test_each_recording_is_read_exactly_when_stopped_after_every_seven_records(fixture: Path) -> None:
    """A new reader goes on from the written position, inside blocks too, as if none had stopped."""
    reading = Reading(MemoryBlobs(recordings.container(fixture)), SEVEN)
    passes = await reading.stopping()
    rows = recordings.expected(fixture)
    assert _by_id(reading.records) == _wanted(rows)
    assert passes >= len(reading.records) // 7
    assert reading.duplicates == len(rows) - len(reading.records)
    assert (reading.damage, reading.lost) == ([], [])
    _assert_order(rows, [one["id"] for one in reading.records])


@pytest.mark.parametrize("limits", [ReadLimits(), SEVEN, ReadLimits(window_bytes=100)], ids=["usual", "sevens", "tiny-ranges"])
@pytest.mark.parametrize("fixture", [path for path in FIXTURES if recordings.growth(path)], ids=lambda path: path.name)
async def test_a_growing_chunk_is_read_step_by_step(fixture: Path, limits: ReadLimits) -> None:
    """At each recorded size exactly the new records come, and no byte of the chunk's body is read twice."""
    growth, whole = recordings.growth(fixture), recordings.container(fixture)
    assert growth is not None
    name = growth["chunk"]
    blobs = MemoryBlobs(dict(whole))
    reading = Reading(blobs, limits)
    for step in growth["steps"]:
        blobs.blobs[name] = whole[name][: step["bytes"]]
        await reading.all()
        assert len(reading.records) == step["events"]
    assert _by_id(reading.records) == _wanted(recordings.expected(fixture))
    body = sorted((start, length) for _, start, length in blobs.ranges if start >= 8192)
    assert all(one[0] + one[1] <= two[0] for one, two in pairwise(body))
