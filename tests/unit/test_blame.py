"""Drift by kind and by who should have told of it, in the report and on its page."""

from __future__ import annotations

import pytest

from federation.model import Side, Source
from reconciler.comparison import FILE_WRITES, NO_SOURCE
from reconciler.scan import Scanner
from tests.unit.test_scan import DAY, SECOND, _Pair


async def test_each_kind_of_drift_names_the_source_that_missed_it() -> None:
    """The one set up for the side, or that there is none, or that no source can tell of what was written as a file."""
    pair = _Pair()
    tellers = {Side.BLOB: Source.EVENT_GRID.value, Side.VAST: ""}
    pair.scanner = Scanner(dict(pair.raw), pair.state, pair.state, pair.clock, quiet_us=0, tombstone_us=30 * DAY, tellers=tellers)
    for key in ("gone", "same", "touched"):
        await pair.agree(key)
    for key in ("new", "newer"):
        await pair.put(Side.BLOB, key)
    del pair.raw[Side.VAST].objects["gone"]
    for key in ("touched", "file"):
        pair.raw[Side.VAST].write_file(key, b"y")
    pair.clock.us += 60 * SECOND
    report = await pair.scanner.scan()

    assert report.missed == {
        "only_on_blob": {"event_grid": 2},
        "deleted_on_vast": {NO_SOURCE: 1},
        "changed_on_vast": {FILE_WRITES: 1},
        "only_on_vast": {FILE_WRITES: 1},
    }
    page = report.text().splitlines()
    assert "  in step: 1" in page
    assert "  missed by events: 2 on blob, 3 on vast" in page
    assert "    only on blob: 2 by event_grid" in page
    assert f"    changed on vast: 1 by {FILE_WRITES}" in page


@pytest.mark.parametrize(("seconds", "missed"), [(60, 0), (1_000, 1)])
async def test_the_feed_is_given_the_minutes_that_it_is_late(seconds: int, missed: int) -> None:
    """A write of a minute ago is on its way: nobody missed it yet."""
    pair = _Pair()
    tellers = {Side.BLOB: Source.CHANGE_FEED.value}
    pair.scanner = Scanner(dict(pair.raw), pair.state, pair.state, pair.clock, quiet_us=0, tombstone_us=30 * DAY, tellers=tellers)
    await pair.put(Side.BLOB, "new")
    pair.clock.us += seconds * SECOND
    report = await pair.scanner.scan()
    assert (report.missed_by_events[Side.BLOB], report.recent) == (missed, 1 - missed)
    assert report.missed == ({"only_on_blob": {"change_feed": 1}} if missed else {})


async def test_a_delete_that_only_the_feed_would_tell_is_not_held_against_it() -> None:
    """It has no time: nobody can say whether it should have been told by now. By events it should."""
    for teller, missed in ((Source.CHANGE_FEED, 0), (Source.EVENT_GRID, 1)):
        pair = _Pair()
        tellers = {Side.BLOB: teller.value}
        pair.scanner = Scanner(
            dict(pair.raw), pair.state, pair.state, pair.clock, quiet_us=0, tombstone_us=30 * DAY, tellers=tellers
        )
        await pair.agree("gone")
        await pair.agree("stays")
        del pair.raw[Side.BLOB].objects["gone"]
        pair.clock.us += SECOND
        report = await pair.scanner.scan()
        assert (report.missed_by_events[Side.BLOB], report.recent) == (missed, 1 - missed)
