"""What status concludes from scans: those that fail, and as of when both sides are equal."""

from __future__ import annotations

import msgspec

from federation.model import Change, Side, Source, Stamp, StampOrigin
from federation.progress import GAP_NOTE
from federation.state.memory_state import MemoryState
from fedplane.status_text import page
from operations.heartbeat import say
from operations.status import pair_status
from reconciler import wanted
from reconciler.book import Book
from tests.unit.test_status import (
    BLOB_TO_VAST,
    CONNECTED,
    NOW,
    VAST_TO_BLOB,
    Known,
    StillClock,
    ago,
    beat,
    build,
    scan,
    settings,
)


async def test_a_small_scan_does_not_hide_that_the_scan_of_the_whole_pair_fails() -> None:
    """Nor does one of given keys; a scan of the whole pair that comes to its end takes the doubt away."""
    state = await build(Known())
    book = Book(state)
    for report in (scan(60, complete=False, error="503"), scan(30, prefix="a/"), scan(20, keys=1)):
        await book.keep(report)
    found = await pair_status(state, settings(), NOW)
    assert found.state == "unknown"
    assert found.directions[BLOB_TO_VAST].unknown_because == ["the last scan of the whole pair did not finish: 503"]
    await book.keep(scan(10))
    assert (await pair_status(state, settings(), NOW)).state == "in_step"


async def test_each_direction_says_as_of_when_it_is_applied_and_the_pair_the_earlier_of_both() -> None:
    """A change that waits holds back its own direction only; the feed's watermark moves Blob's on between scans."""
    state = MemoryState("p", shards=2, clock=StillClock())
    await Book(state).keep(scan(600))
    at = Stamp(ago(30), 1, StampOrigin.CHANGE_FEED)
    feed = {"connected": 1, "from_us": ago(900), "as_of_us": ago(20)}
    await say(state, beat(sources={"event_grid_queue": CONNECTED, "vast_events": CONNECTED, "change_feed": feed}))
    found = await pair_status(state, settings(), NOW)
    assert found.directions[BLOB_TO_VAST].converged_as_of_us == ago(20)
    assert found.directions[VAST_TO_BLOB].converged_as_of_us == found.converged_as_of_us == ago(600)
    await state.mark([Change("k", Side.BLOB, Source.CHANGE_FEED, etag="e", at=at)])
    found = await pair_status(state, settings(), NOW)
    assert found.directions[BLOB_TO_VAST].converged_as_of_us == ago(30)
    assert "everything applied as of" in page(found)


async def test_what_is_parked_and_held_is_excepted_from_as_of_when_all_is_applied() -> None:
    """The page says so with each such time, and how many; nothing where there are none, or no time is known."""
    state = await build(Known())
    unknown = await pair_status(state, settings(), NOW)
    assert unknown.converged_as_of_us is None
    await Book(state).keep(scan(600))
    found = await pair_status(state, settings(), NOW)
    assert "save" not in page(found) + page(msgspec.structs.replace(unknown, parked=3))
    for parked, held, words in ((3, 600_000, "3 parked and 600,000 held"), (3, 0, "3 parked"), (0, 1, "1 held")):
        told = page(msgspec.structs.replace(found, parked=parked, held=held)).splitlines()
        as_of = [line for line in told if "applied as of" in line or "in step as of" in line]
        assert len(as_of) == 3
        assert all(line.endswith(f"Z, save {words}") for line in as_of)


async def test_as_of_when_both_are_equal_is_not_known_while_marks_are_lost() -> None:
    """Those of a whole scan may be among them. What a source missed is later than the scan, or was found by it."""
    state = await build(Known(lost=True))
    await Book(state).keep(scan(600))
    assert (await pair_status(state, settings(), NOW)).converged_as_of_us is None
    await state.put_note(GAP_NOTE, b"")
    await wanted.ask(state, "", now_us=ago(60))
    assert (await pair_status(state, settings(), NOW)).converged_as_of_us == ago(600)


async def test_a_change_older_than_every_scan_s_end_leaves_its_direction_unknown() -> None:
    """The scan that found it cannot say when it happened; the pair is then not known to be equal at any time."""
    state = MemoryState("p", shards=2, clock=StillClock())
    await Book(state).keep(scan(600))
    await state.mark([Change("k", Side.VAST, Source.RECONCILER, etag="e", at=Stamp(ago(900)))])
    found = await pair_status(state, settings(), NOW)
    assert found.directions[VAST_TO_BLOB].converged_as_of_us is None
    assert found.directions[BLOB_TO_VAST].converged_as_of_us == ago(600)
    assert found.converged_as_of_us is None
