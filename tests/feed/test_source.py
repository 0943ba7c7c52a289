"""The change feed as a source: marks first, cursor then; one reader; what cannot be read is kept; lag is told as it is known."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from federation.errors import FederationError, Halt, RetryLater
from federation.model import Change, Side, Source
from federation.payloads.event_grid import BlobScope
from federation.progress import Cursor
from federation.sources.change_feed import NAME, ChangeFeed, FeedOptions
from federation.sources.change_feed_chunk import ReadLimits
from federation.sources.change_feed_layout import INDEX, SLACK_US
from federation.sources.change_feed_position import load, start_at
from federation.state.memory_state import MemoryState
from tests.feed.memory import MemoryBlobs
from tests.feed.writer import Feed, hour, record
from tests.servers.support import QuickClock, Sink, eventually, running

SCOPE = BlobScope("", "datasets", "", lambda name: name)
FROM_START = FeedOptions(start="start", poll_seconds=0.05)


@dataclass
class Lab:
    """A feed being written, a state, and sources over them."""

    feed: Feed = field(default_factory=Feed)
    sink: Sink = field(default_factory=Sink)
    clock: QuickClock = field(default_factory=QuickClock)
    gaps: int = 0
    deaf: bool = False
    """Nobody can be asked for a scan now."""
    refusals: int = 0
    written: int = 0

    def __post_init__(self) -> None:
        self.state = MemoryState("pair", shards=4, clock=self.clock)
        self.blobs = MemoryBlobs(self.feed.blobs)
        self.feed.segment(hour(1))
        self.feed.index(hour(1))

    def source(self, owner: str = "one", options: FeedOptions = FROM_START, **named: Any) -> ChangeFeed:  # noqa: ANN401 - any of its arguments
        """A new one."""
        scope, limits = named.get("scope", SCOPE), named.get("limits")
        return ChangeFeed(
            self.blobs,
            named.get("account", "acct"),
            scope,
            self.state,
            self.sink,
            self.clock,
            owner=owner,
            on_gap=self._gap,
            options=options,
            limits=limits,
        )

    async def _gap(self, prefix: str = "") -> None:
        assert prefix in ("", "caf")
        if self.deaf:
            self.refusals += 1
            raise RetryLater("the state is away", reason="test")
        self.gaps += 1

    def append(self, count: int, segment: int = 1, shard: int = 0) -> None:
        """*count* records of keys ``k<number>``."""
        numbers = range(self.written, self.written + count)
        self.feed.append(hour(segment), [record(number, f"k{number}", hour(segment)) for number in numbers], shard=shard)
        self.written += count

    @property
    def keys(self) -> list[str]:
        """All that were written."""
        return [f"k{number}" for number in range(self.written)]

    async def position(self) -> dict[str, int]:
        """The kept cursor's."""
        cursor = await self.state.cursor(NAME)
        return cursor.position if cursor is not None else {}

    def marked(self) -> bool:
        """Whether everything written was marked, each once."""
        return sorted(self.sink.keys) == sorted(self.keys)


async def test_records_are_marked_as_they_come() -> None:
    """What is there and what is added later is marked once, with ETag and source; health tells counts and lag."""
    lab = Lab()
    lab.append(3)
    source = lab.source()
    async with running(source):
        await eventually(lab.marked, "the first are marked")
        lab.append(2)
        await eventually(lab.marked, "the others are marked")
    first = lab.sink.calls[0][0]
    assert (first.side, first.source, first.etag) == (Side.BLOB, Source.CHANGE_FEED, "0x8DD000000000000")
    health = source.health()
    assert (health["received"], health["marked"], health["connected"], health["last_error"]) == (5, 5, 1, "")
    assert health["unread_bytes"] == 0
    assert health["unread_since_us"] is None
    assert health["as_of_us"] == int(hour(1).timestamp()) * 1_000_000 - SLACK_US
    assert lab.gaps == 0


async def test_the_cursor_moves_only_after_the_mark() -> None:
    """While a mark is under way the cursor stands; a source that is stopped then leaves the records to the next one (rule 6)."""
    lab = Lab()
    lab.append(3)
    lab.sink.gate.clear()
    source = lab.source()
    async with running(source):
        await eventually(lambda: source.health().get("received") == 3, "the records were read")
        assert load(await lab.position()).chunks == {}
    lab.sink.gate.set()
    async with running(lab.source()):
        await eventually(lab.marked, "the next source marks them")
    assert len(lab.sink.keys) == 3


async def test_a_failing_mark_is_tried_again() -> None:
    """However often the state does not answer, nothing is lost, and health says why."""
    lab = Lab()
    lab.append(3)
    lab.sink.failures = 4
    source = lab.source()
    async with running(source):
        await eventually(lambda: source.health()["last_error"] == "Redis does not answer", "health tells")
        await eventually(lab.marked, "marked at last")


async def test_a_second_process_waits_and_takes_over() -> None:
    """One process reads; another says so and takes over when the first one stops."""
    lab = Lab()
    lab.append(3)
    one, two = lab.source("one"), lab.source("two")
    async with running(two):
        async with running(one):
            await eventually(lab.marked, "one of them marks")
            await eventually(
                lambda: "another process" in f"{one.health()['last_error']}{two.health()['last_error']}", "the other says so"
            )
        lab.append(2)
        await eventually(lab.marked, "the other one took over")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Halt("gone", reason="container_missing"), "turn the change feed on"),
        (Halt("refused", reason="credentials_refused"), "refused"),
        (RetryLater("busy", reason="throttled"), "busy"),
    ],
)
async def test_a_fault_of_the_service_is_told_and_outlived(fault: FederationError, said: str) -> None:
    """It is never taken for an empty feed: health is not connected and says what to do; then reading goes on."""
    lab = Lab()
    lab.append(3)
    lab.blobs.faults[INDEX] = fault
    source = lab.source()
    async with running(source):
        await eventually(lambda: said in str(source.health()["last_error"]), "health tells")
        assert (source.health()["connected"], lab.sink.keys) == (0, [])
        lab.blobs.faults.clear()
        await eventually(lab.marked, "reading goes on")
    assert lab.gaps == 0


async def test_a_request_refused_now_and_then_costs_no_pass() -> None:
    """A busy service is asked again a few times, and that is counted; what was read before a lasting fault is marked."""
    lab = Lab()
    lab.append(3)
    lab.feed.segment(hour(2))
    lab.feed.index(hour(2))
    lab.feed.append(hour(2), [record(700, "later", hour(2))])
    chunk = next(name for name in lab.feed.blobs if name.endswith(".avro") and "/0200/" in name)
    lab.blobs.faults[chunk] = RetryLater("busy", reason="throttled")
    source = lab.source()
    async with running(source):
        await eventually(lab.marked, "the readable segment is marked while the other one is refused")
        await eventually(lambda: "busy" in str(source.health()["last_error"]), "health tells")
        lab.blobs.faults.clear()
        await eventually(lambda: "later" in lab.sink.keys, "the other one too")
    assert len(lab.sink.keys) == 4
    assert int(source.health()["repeated_requests"] or 0) >= 3


async def test_a_gap_asks_for_a_scan() -> None:
    """When retention overtook the cursor a scan is asked for, it is counted, and reading goes on with what is there."""
    lab = Lab()
    lab.append(3)
    async with running(lab.source()):
        await eventually(lab.marked, "marked")
    lab.feed.drop(hour(1))
    lab.blobs.blobs = lab.feed.blobs
    lab.feed.segment(hour(30))
    lab.feed.index(hour(30))
    lab.append(2, segment=30)
    source = lab.source()
    async with running(source):
        await eventually(lab.marked, "the new ones are marked")
    assert (lab.gaps, source.health()["gaps"]) == (1, 1)


async def test_what_is_complete_begins_anew_after_a_gap() -> None:
    """Only a whole scan that began after something was found missing knows what that held: until then no watermark counts."""
    lab = Lab()
    lab.append(3)
    async with running(lab.source()):
        await eventually(lab.marked, "marked")
    before_us = lab.clock.now_us()
    lab.feed.drop(hour(1))
    lab.blobs.blobs = lab.feed.blobs
    lab.feed.segment(hour(30))
    lab.feed.index(hour(30))
    lab.append(2, segment=30)
    whole_us = int(hour(30).timestamp()) * 1_000_000 - SLACK_US
    for source in (lab.source(), lab.source()):
        async with running(source):
            await eventually(lambda told=source: bool(told.health().get("as_of_us") == whole_us), "read")  # type: ignore[misc]
        assert int(source.health()["from_us"] or 0) >= before_us
    assert lab.gaps == 1


async def test_what_cannot_be_read_is_kept_and_the_stream_goes_on() -> None:
    """A broken block and a record that names no blob become dead letters with their reasons, and a scan is asked for."""
    lab = Lab()
    lab.feed.append(hour(1), [record(1000, "x", hour(1)) | {"subject": "nonsense"}])
    lab.append(2)
    lab.feed.segment(hour(1), shards=2)
    name = lab.feed.append(hour(1), [record(1001, "y", hour(1))], shard=1)
    lab.feed.blobs[name] = lab.feed.blobs[name][:-1] + b"?"
    source = lab.source()
    async with running(source):
        await eventually(lab.marked, "the readable ones are marked")
        await eventually(lambda: source.health().get("dead_lettered") == 2, "both are kept")
    reasons = sorted(letter.reason for letter in await lab.state.dead_letters())
    assert "names no blob" in reasons[0]
    assert name in reasons[1]
    assert all(letter.raw for letter in await lab.state.dead_letters())
    assert lab.gaps == 2


@pytest.mark.parametrize("told", [{"subject": "nonsense"}, {"subject": "/x/containers/datasets/blobs/caf\ufffd"}])
async def test_what_is_complete_begins_anew_after_a_record_that_only_a_scan_can_follow(told: dict[str, str]) -> None:
    """The scan that it asks for finds the change without its time: no watermark may speak for it."""
    lab = Lab()
    lab.feed.append(hour(1), [record(1000, "x", hour(1)) | told])
    lab.append(2)
    before_us, source = lab.clock.now_us(), lab.source()
    async with running(source):
        await eventually(lab.marked, "the readable ones are marked")
    assert int(source.health()["from_us"] or 0) >= before_us


@pytest.mark.parametrize("named", [{"account": "other"}, {"scope": BlobScope("", "datasets", "dir/", lambda name: name)}])
async def test_a_cursor_of_other_settings_is_not_gone_on_from(named: dict[str, Any]) -> None:
    """With another account or prefix what was passed over before would be missed: reading begins anew and a scan is asked for."""
    lab = Lab()
    lab.append(3)
    async with running(lab.source()):
        await eventually(lab.marked, "marked")
    source = lab.source(**named)
    async with running(source):
        await eventually(lambda: source.health().get("received") == 3, "read again")
    assert lab.gaps == 1


async def test_the_cursor_does_not_pass_a_gap_before_its_scan_was_asked_for() -> None:
    """A reader that dies in between leaves the gap to be found again (rule 6)."""
    lab = Lab()
    lab.append(3)
    async with running(lab.source()):
        await eventually(lab.marked, "marked")
    before = await lab.state.cursor(NAME)
    lab.deaf = True
    async with running(lab.source(account="other")):
        await eventually(lambda: lab.refusals > 1, "it was tried")
        assert await lab.state.cursor(NAME) == before
        lab.deaf = False
        await eventually(lambda: lab.gaps == 1, "asked for")


async def test_a_rewind_is_followed_by_the_running_reader() -> None:
    """A cursor set back by an operator is no lost state: the records are marked again and no scan is asked for."""
    lab = Lab()
    lab.append(3)
    async with running(lab.source()):
        await eventually(lab.marked, "marked")
        found = await lab.state.cursor(NAME)
        assert found is not None
        moved = Cursor({**start_at(0).dump(), "rewound": 1}, found.options_digest, 0)
        assert await lab.state.move_cursor(NAME, found, moved)
        await eventually(lambda: Counter(lab.sink.keys) == dict.fromkeys(lab.keys, 2), "marked again")
    assert lab.gaps == 0


async def test_a_state_that_went_back_is_a_gap() -> None:
    """A cursor that is behind where it was left means that marks were lost too: read again, and scan."""
    lab = Lab()
    lab.append(3)
    async with running(lab.source()):
        await eventually(lab.marked, "marked")
        found = await lab.state.cursor(NAME)
        assert found is not None
        assert await lab.state.move_cursor(NAME, found, Cursor(start_at(0).dump(), found.options_digest, 0))
        await eventually(lambda: len(lab.sink.keys) == 6, "marked again")
    assert lab.gaps == 1


async def test_now_begins_now() -> None:
    """Without a cursor, records of before the start are passed over and counted."""
    lab = Lab()
    lab.append(3)
    start = int(hour(2).timestamp()) * 1_000_000
    source = lab.source(options=FeedOptions(start=start, poll_seconds=0.05))
    lab.feed.segment(hour(2))
    lab.feed.index(hour(2))
    lab.feed.append(hour(2), [record(500, "new", hour(2))])
    async with running(source):
        await eventually(lambda: lab.sink.keys == ["new"], "the new one alone")
        await eventually(lambda: source.health()["connected"] == 1, "a whole look")
    assert source.health()["ignored_before_start"] == 3


@pytest.mark.parametrize("seed", range(10))
async def test_stopped_at_any_moment_nothing_is_lost(seed: int) -> None:
    """Sources cancelled anywhere while the feed grows: each record is marked, and only those of a batch in flight twice."""
    chance = random.Random(seed)  # noqa: S311 - repeatable chance
    lab = Lab()
    lab.feed.segment(hour(1), shards=3)
    for _ in range(15):
        lab.append(chance.randint(1, 40), shard=chance.randrange(3))
        source = lab.source(limits=ReadLimits(piece_records=7))
        async with running(source):
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
    async with running(lab.source()):
        await eventually(lambda: set(lab.sink.keys) == set(lab.keys), "all are marked")
    assert lab.gaps == 0


async def test_marks_name_no_other_container() -> None:
    """One feed holds all containers of the account: only the pair's are marked."""
    lab = Lab()
    lab.feed.append(hour(1), [record(900, "k900", hour(1), container="other")])
    lab.append(1)
    source = lab.source()
    async with running(source):
        await eventually(lab.marked, "ours is marked")
    assert source.health()["ignored_other_container"] == 1
    assert all(isinstance(change, Change) for change in lab.sink.calls[0])
