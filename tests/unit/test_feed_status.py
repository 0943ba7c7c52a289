"""What status says of the change feed: its lag in the forms that can be known, and never less than that (rule 9)."""

from __future__ import annotations

from typing import Any

import pytest

from federation.errors import UsageError
from federation.model import Side
from federation.progress import Cursor
from federation.settings import BlobSettings, PairSettings, VastSettings
from federation.settings_feed import ChangeFeedSettings, time_us
from federation.sources.change_feed import NAME
from federation.sources.change_feed_position import start_at
from federation.stores.change_feed import AzureChangeFeed
from fedplane.status_text import page
from operations.feed_status import FeedLag, feed_lag
from operations.status import pair_status
from tests.unit.test_status import NOW, Known, ago, beat, build

READ: dict[str, Any] = {
    "connected": 1,
    "last_error": "",
    "newest_us": ago(90),
    "index_modified_us": ago(40),
    "unread_bytes": 0,
    "unread_since_us": None,
    "segments_waiting": 0,
    "as_of_us": ago(4000),
}
STANDBY: dict[str, Any] = {"connected": 0, "last_error": "another process reads the change feed", "newest_us": None}


def _pair(*, enabled: bool = True) -> PairSettings:
    feed = ChangeFeedSettings.model_validate({"enabled": enabled, "from": "now"})
    blob = BlobSettings(account_url="https://a.example", container="c", change_feed=feed)
    vast = VastSettings(endpoint="https://v.example", bucket="b", access_key_env="A", secret_key_env="S")
    return PairSettings(name="p", blob=blob, vast=vast)


def _lag(*told: dict[str, Any]) -> FeedLag:
    found = feed_lag(told)
    assert found is not None
    return found


def test_the_process_that_reads_counts() -> None:
    """Of several processes one reads; those that stand by know nothing of the lag."""
    assert _lag(STANDBY, READ, STANDBY) == _lag(READ)
    assert _lag(READ).reading
    assert (_lag(STANDBY).reading, _lag(STANDBY).unread_bytes) == (False, None)
    assert feed_lag([]) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "nothing unread; newest record 90 s ago, index written 40 s ago; complete as of"),
        ({"unread_bytes": 2048, "unread_since_us": ago(20)}, "2.0 KiB unread; newest"),
        ({"unread_bytes": 2048, "unread_since_us": ago(1200)}, "2.0 KiB unread FOR 20 min"),
        ({"segments_waiting": 7}, "0 B unread in what was looked at, 7 segments not looked at yet"),
        ({"newest_us": None, "index_modified_us": None}, "newest record unknown, index written unknown"),
        ({"connected": 0, "last_error": "busy"}, "NOT READ: busy; read up to"),
    ],
)
def test_the_line_for_people(changes: dict[str, Any], said: str) -> None:
    """All three forms, and that something has been unread for long."""
    assert said in _lag(READ | changes).text(NOW)


async def test_status_has_the_feed_of_the_process_that_reads() -> None:
    """In the page too; raw times stay out of the line of counts."""
    known = Known(beats=[beat("one", sources={NAME: READ}), beat("two", sources={NAME: STANDBY})], pair=_pair())
    found = await pair_status(await build(known), known.pair, NOW)
    assert found.change_feed == _lag(READ)
    assert "change feed: nothing unread" in page(found)
    assert str(READ["newest_us"]) not in page(found)


async def test_a_feed_that_nobody_reads_is_told_from_the_cursor() -> None:
    """Without a process the kept position says how far reading came, and that nobody reads."""
    known = Known(beats=[], pair=_pair())
    state = await build(known)
    position = start_at(0).dump() | {"as_of_us": ago(500), "newest_us": ago(400)}
    assert await state.move_cursor(NAME, None, Cursor(position, "d", NOW))
    told = (await pair_status(state, known.pair, NOW)).change_feed
    assert told is not None
    assert (told.reading, told.as_of_us, told.newest_us, told.unread_bytes) == (False, ago(500), ago(400), None)


async def test_without_a_feed_status_has_none() -> None:
    """Nothing is said of what is not set up."""
    known = Known(pair=_pair(enabled=False))
    assert (await pair_status(await build(known), known.pair, NOW)).change_feed is None


async def test_the_feed_alone_leaves_the_lag_unknown() -> None:
    """It is minutes late by nature: without events no lag of the Blob side can be known, and that is the reason given."""
    known = Known(beats=[beat(sources={NAME: READ, "vast_events": READ})], pair=_pair())
    found = await pair_status(await build(known), known.pair, NOW)
    one = found.directions[f"{Side.BLOB}_to_{Side.VAST}"]
    assert one.lag_seconds is None
    assert any("by the change feed only" in why for why in one.unknown_because)


@pytest.mark.parametrize(
    ("text", "at_us"),
    [("2026-11-21T10:00:00Z", 1_795_255_200_000_000), ("2026-11-21T11:00:00+01:00", 1_795_255_200_000_000), ("2026-11-21", None)],
)
def test_start_times(text: str, at_us: int | None) -> None:
    """A time with or without a zone (then UTC), or a date."""
    assert time_us(text) == (at_us or 1_795_219_200_000_000)
    assert ChangeFeedSettings.model_validate({"from": text}).start_at == time_us(text)


@pytest.mark.parametrize(
    "given", [{"from": "yesterday"}, {"from": ""}, {"poll_seconds": 0}, {"lease_seconds": 0}, {"start": "now"}]
)
def test_wrong_settings_are_refused(given: dict[str, Any]) -> None:
    """By name."""
    with pytest.raises(ValueError, match=next(iter(given))):
        ChangeFeedSettings.model_validate(given)


def test_an_account_that_can_have_no_feed_is_refused() -> None:
    """The endpoint of a hierarchical namespace is named, and what to do."""
    with pytest.raises(UsageError, match=r"acct\.dfs\.core.*change_feed\.enabled"):
        AzureChangeFeed(account_url="https://acct.dfs.core.windows.net", connection_string=None, credential=object())
