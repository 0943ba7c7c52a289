"""One contract for every State: the in-memory twin and Redis (the embedded server)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.errors import LeaseLost, RetryLater, UsageError
from federation.model import ECHO_SLACK_US, Base, Change, Metadata, Side, Source, Stamp, StampOrigin
from federation.ports import Clock, State
from federation.progress import ConflictRecord, Cursor, DeadLetter, DeleteBudget, HaltRecord, Held, Lease
from federation.settings import RedisSettings
from federation.state.embedded import EmbeddedRedis, connect
from federation.state.memory_state import MemoryState
from federation.state.redis_state import RedisState

MD5 = "0cc175b9c0f1b6a831c399e269772661"
AGREED = Base(blob_etag="0x8DC1", vast_etag=MD5, md5=MD5, metadata_digest=b"12345678", written=Stamp(5_000_000), size_bytes=9)


class TestClock:
    """Wall time set by the test; monotonic time is real, since Redis expires leases by its own."""

    __test__ = False

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def now_us(self) -> int:
        """As set."""
        return self.us

    def monotonic_seconds(self) -> float:
        """Real."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Real."""
        await asyncio.sleep(seconds)


@pytest.fixture
def clock() -> TestClock:
    """Set by hand."""
    return TestClock()


@pytest.fixture(params=["memory", "redis"])
async def state(request: pytest.FixtureRequest, clock: TestClock, tmp_path: Path) -> AsyncIterator[State]:
    """Each kind of state, opened, empty."""
    async for made in _make(request.param, clock, tmp_path):
        await made.open()
        yield made


async def _make(kind: str, clock: Clock, tmp_path: Path) -> AsyncIterator[State]:
    if kind == "memory":
        yield MemoryState("pair", shards=2, clock=clock)
        return
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    redis_state = RedisState(client, "pair", shards=2, clock=clock)
    yield redis_state
    await redis_state.close()
    await server.stop()


def _event(key: str, side: Side = Side.BLOB, etag: str | None = "0x8DC9", at_us: int | None = 10_000_000) -> Change:
    at = Stamp(at_us, 1, StampOrigin.EVENT) if at_us is not None else None
    return Change(key, side, Source.EVENT_GRID, etag=etag, at=at)


async def _lease(state: State, key: str) -> Lease:
    lease = await state.acquire(state.shard_of(key), owner="w", ttl_seconds=60)
    assert lease is not None
    return lease


async def _agree(state: State, key: str, base: Base = AGREED) -> None:
    lease = await _lease(state, key)
    await state.settle(lease, key, 0, base)
    await state.release(lease)


async def test_a_mark_is_claimed_once_with_all_it_said(state: State, clock: TestClock) -> None:
    """A claim carries the hint as it was marked, and is not handed out twice."""
    await state.mark([_event("k"), _event("k", Side.VAST, None, None)])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=10, now_us=clock.us)

    assert claim.hint.generation == 2
    assert [(entry.etag, entry.at) for entry in claim.hint.blob] == [("0x8DC9", Stamp(10_000_000, 1, StampOrigin.EVENT))]
    assert [(entry.etag, entry.at) for entry in claim.hint.vast] == [(None, None)]
    assert claim.hint.sources == (Source.EVENT_GRID,)
    assert (claim.base, claim.held, claim.intent) == (None, None, None)
    assert await state.claim(lease, limit=10, now_us=clock.us) == []


async def test_names_of_any_kind_survive(state: State, clock: TestClock) -> None:
    """Keys are UTF-8 and nothing in them is special."""
    keys = ["a b", "ü/ß", "x%2Fy", "a//b", "{t}", "*", "\U0001f600", "trailing/"]
    await state.mark([_event(key) for key in keys])
    claimed = []
    for shard in range(state.shards):
        lease = await state.acquire(shard, owner="w", ttl_seconds=60)
        assert lease is not None
        claimed += [claim.hint.key for claim in await state.claim(lease, limit=100, now_us=clock.us)]

    assert sorted(claimed) == sorted(keys)


async def test_lag_is_the_age_of_the_oldest_unapplied_change(state: State) -> None:
    """Coalescing keeps the earliest time per side."""
    await state.mark([_event("k", at_us=30), _event("k", etag="0x8DCA", at_us=20), _event("k", Side.VAST, MD5, 40)])
    backlog = await state.backlog()

    assert backlog.dirty == 1
    assert backlog.oldest_us_by_side == {Side.BLOB: 20, Side.VAST: 40}
    assert backlog.dirty_by_side == {Side.BLOB: 1, Side.VAST: 1}


async def test_settling_ends_the_lag_and_records_the_base(state: State, clock: TestClock) -> None:
    """After a settle nothing is dirty and the base is what was settled."""
    await state.mark([_event("k")])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    assert await state.settle(lease, "k", claim.hint.generation, AGREED)
    backlog = await state.backlog()

    assert (backlog.dirty, backlog.objects) == (0, 1)
    assert backlog.oldest_us_by_side == {Side.BLOB: None, Side.VAST: None}
    assert await state.bases(["k", "other"]) == [AGREED, None]


async def test_echoes_are_dropped_and_news_is_not(state: State) -> None:
    """The agreed ETag is an echo; on VAST only if its time allows that it tells of what we know."""
    base = dataclasses.replace(AGREED, vast_as_of_us=50_000_000)
    await _agree(state, "k", base)
    result = await state.mark(
        [
            _event("k", etag=base.blob_etag, at_us=99_000_000),
            _event("k", Side.VAST, MD5, 50_000_000),
            _event("k", Side.VAST, MD5, 50_000_000 + ECHO_SLACK_US),
            _event("k", Side.VAST, MD5, None),
        ]
    )
    assert (result.marked, result.echoes) == (0, 4)

    for change in (_event("k", etag="0x8DC2"), _event("k", Side.VAST, MD5, 50_000_001 + ECHO_SLACK_US), _event("k", etag=None)):
        assert (await state.mark([change])).marked == 1
    assert (await state.mark([Change("k", Side.VAST, Source.VAST_EVENTS, deleted=True)])).marked == 1


async def test_a_delete_of_a_tombstone_is_an_echo(state: State) -> None:
    """Both sides agreed on absence already; a create is news."""
    await _agree(state, "k", Base(deleted=True, written=Stamp(1)))

    assert (await state.mark([Change("k", Side.VAST, Source.VAST_EVENTS, deleted=True)])).echoes == 1
    assert (await state.mark([_event("k")])).marked == 1


async def test_too_many_versions_become_one_of_unknown_version(state: State, clock: TestClock) -> None:
    """What does not fit is never mistaken for known, and keeps the earliest time."""
    await state.mark([_event("k", etag=f"0x8DC{n}", at_us=100 + n) for n in range(1, 7)])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)

    assert None in [entry.etag for entry in claim.hint.blob]
    assert (await state.backlog()).oldest_us_by_side[Side.BLOB] == 101


async def test_the_latest_time_of_one_version_is_kept(state: State, clock: TestClock) -> None:
    """Two events of one ETag are one entry; its time decides whether it can be an echo."""
    await state.mark([_event("k", Side.VAST, MD5, 20), _event("k", Side.VAST, MD5, 10)])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)

    assert [entry.at and entry.at.at_us for entry in claim.hint.vast] == [20]


async def test_a_key_marked_while_it_is_worked_on_stays_dirty_with_only_the_news(state: State, clock: TestClock) -> None:
    """Nothing is lost between claim and settle, and what was done is not done again."""
    await state.mark([_event("k", etag="0x8DCA", at_us=10)])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.mark([_event("k", etag="0x8DCB", at_us=20)])

    assert await state.claim(lease, limit=1, now_us=clock.us) == []
    assert not await state.settle(lease, "k", claim.hint.generation, AGREED)
    assert (await state.backlog()).oldest_us_by_side[Side.BLOB] == 20
    [again] = await state.claim(lease, limit=1, now_us=clock.us)
    assert [entry.etag for entry in again.hint.blob] == ["0x8DCB"]
    assert again.base == AGREED


async def test_a_deferred_key_waits_and_counts_its_attempts(state: State, clock: TestClock) -> None:
    """It is not due before its time; a mark meanwhile brings it forward."""
    await state.mark([_event("k")])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.defer(lease, "k", claim.hint.generation, not_before_us=clock.us + 1000, error="later")

    assert await state.claim(lease, limit=1, now_us=clock.us) == []
    [again] = await state.claim(lease, limit=1, now_us=clock.us + 1000)
    assert (again.hint.attempts, again.hint.last_error) == (1, "later")
    await state.defer(lease, "k", again.hint.generation, not_before_us=clock.us + 9000, error="", count_attempt=False)
    await state.mark([_event("k", etag="0x8DCE")])
    [third] = await state.claim(lease, limit=1, now_us=clock.us)
    assert third.hint.attempts == 1


async def test_not_before_holds_a_young_key_back(state: State, clock: TestClock) -> None:
    """A scan may ask to look later; news without such a wish is due at once."""
    await state.mark([Change("k", Side.VAST, Source.RECONCILER, not_before_us=clock.us + 500)])
    lease = await _lease(state, "k")
    assert await state.claim(lease, limit=1, now_us=clock.us) == []
    await state.mark([_event("k", Side.VAST, MD5)])

    assert len(await state.claim(lease, limit=1, now_us=clock.us)) == 1


async def test_a_shard_has_one_owner_and_a_stale_token_changes_nothing(state: State, clock: TestClock) -> None:
    """Every leased step refuses a token that is not the shard's."""
    await state.mark([_event("k")])
    old = await _lease(state, "k")
    assert await state.acquire(old.shard, owner="other", ttl_seconds=60) is None
    await state.claim(old, limit=1, now_us=clock.us)
    await state.release(old)
    new = await _lease(state, "k")

    assert new.fence > old.fence
    assert not await state.renew(old, ttl_seconds=60)
    assert await state.renew(new, ttl_seconds=60)
    held = Held("k", Side.VAST, "budget", 1)
    for step in (
        state.claim(old, limit=1, now_us=clock.us),
        state.settle(old, "k", 1, AGREED),
        state.intend(old, "k", AGREED),
        state.defer(old, "k", 1, not_before_us=0, error=""),
        state.park(old, "k", 1, reason="r", detail="", now_us=1),
        state.hold(old, "k", 1, held),
    ):
        with pytest.raises(LeaseLost):
            await step
    assert await state.bases(["k"]) == [None]
    [claim] = await state.claim(new, limit=1, now_us=clock.us)
    assert claim.hint.key == "k"


async def test_a_lease_expires_by_itself(state: State) -> None:
    """A dead owner's shard is free after its time."""
    assert await state.acquire(0, owner="dead", ttl_seconds=0.05) is not None
    async with asyncio.timeout(5):
        while await state.acquire(0, owner="next", ttl_seconds=60) is None:
            await asyncio.sleep(0.01)


async def test_an_intent_is_handed_to_the_next_claim_and_ends_with_the_settle(state: State, clock: TestClock) -> None:
    """What a dead worker was about to make true is known to its successor."""
    intent = dataclasses.replace(AGREED, vast_etag="")
    await state.mark([_event("k")])
    first = await _lease(state, "k")
    await state.claim(first, limit=1, now_us=clock.us)
    await state.intend(first, "k", intent)
    await state.release(first)
    second = await _lease(state, "k")
    [claim] = await state.claim(second, limit=1, now_us=clock.us)

    assert claim.intent == intent
    await state.settle(second, "k", claim.hint.generation, AGREED)
    await state.mark([_event("k", etag="0x8DCF")])
    [later] = await state.claim(second, limit=1, now_us=clock.us)
    assert later.intent is None


async def test_parked_keys_come_back_on_news_and_by_an_operator(state: State, clock: TestClock) -> None:
    """Parked is out of the dirty set, with its reason, until something changes."""
    lease = None
    for key in ("k", "l"):
        await state.mark([_event(key)])
        lease = await _lease(state, key)
        [claim] = await state.claim(lease, limit=1, now_us=clock.us)
        await state.park(lease, key, claim.hint.generation, reason="archived", detail="cold", now_us=7)
        await state.release(lease)

    assert sorted((one.key, one.reason, one.since_us) for one in await state.parked()) == [
        ("k", "archived", 7),
        ("l", "archived", 7),
    ]
    backlog = await state.backlog()
    assert (backlog.dirty, backlog.parked, backlog.oldest_us_by_side[Side.BLOB]) == (0, 2, None)
    await state.mark([_event("k", etag="0x8DCD")])
    assert await state.unpark(["l", "unknown"], now_us=clock.us) == 1
    assert await state.parked() == []
    assert sorted(await state.dirty_keys(limit=9)) == ["k", "l"]


async def test_a_held_delete_waits_for_a_verdict(state: State, clock: TestClock) -> None:
    """The verdict reaches the worker with the claim; news drops the hold, so that it is decided anew."""
    held = Held("k", Side.VAST, "delete_budget", 7)
    await state.mark([_event("k", etag=None)])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.hold(lease, "k", claim.hint.generation, held)

    assert await state.held() == [held]
    assert (await state.backlog()).held == 1
    assert await state.judge(["k", "unknown"], verdict="released", now_us=clock.us) == 1
    [judged] = await state.claim(lease, limit=1, now_us=clock.us)
    assert judged.held is not None
    assert judged.held.verdict == "released"
    await state.mark([_event("k", etag="0x8DCC")])
    assert await state.held() == []


@pytest.mark.parametrize("step", ["park", "hold"])
async def test_nothing_is_taken_off_that_was_marked_meanwhile(state: State, clock: TestClock, step: str) -> None:
    """News beats parking and holding."""
    await state.mark([_event("k")])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.mark([_event("k", etag="0x8DCB")])
    if step == "park":
        await state.park(lease, "k", claim.hint.generation, reason="r", detail="", now_us=1)
    else:
        await state.hold(lease, "k", claim.hint.generation, Held("k", Side.BLOB, "r", 1))

    assert (await state.parked(), await state.held()) == ([], [])
    assert len(await state.claim(lease, limit=1, now_us=clock.us)) == 1


async def test_the_count_of_objects_follows_the_base(state: State) -> None:
    """Tombstones and forgotten keys are no objects."""
    for base, expected in ((AGREED, 1), (AGREED, 1), (Base(deleted=True), 0), (AGREED, 1), (None, 0)):
        lease = await _lease(state, "k")
        await state.settle(lease, "k", 0, base)
        await state.release(lease)
        assert (await state.backlog()).objects == expected


async def test_the_delete_budget_is_one_for_all_and_moves_with_time(state: State, clock: TestClock) -> None:
    """No more than the limit in any window; time gives it back."""
    budget = DeleteBudget(count=2, share=1.0, window_seconds=10)
    grants = [await state.reserve_delete(name, budget, objects=0, now_us=clock.us) for name in ("a", "b", "c", "a")]
    assert grants == [True, True, False, True], "a repeat of a granted delete costs nothing"
    assert await state.reserve_delete("c", budget, objects=0, now_us=clock.us + 10_000_001)


async def test_the_share_is_of_the_objects_there_were(state: State, clock: TestClock) -> None:
    """Objects deleted in the window count among those of which a share may go: churn is no mass delete."""
    half = DeleteBudget(count=1000, share=0.5, window_seconds=10)
    granted = 0
    for number in range(100):
        granted += await state.reserve_delete(str(number), half, objects=100 - granted, now_us=clock.us)
    assert granted == 50


async def test_a_repeated_settle_does_not_take_a_newer_hint_for_its_own(state: State) -> None:
    """A settle whose reply was lost is sent again, after the key was written once more: the key stays dirty."""
    await state.mark([_event("k")])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=2**52)
    assert await state.settle(lease, "k", claim.hint.generation, AGREED)
    await state.mark([_event("k", etag="0x8DNEW")])
    assert not await state.settle(lease, "k", claim.hint.generation, AGREED)
    assert await state.are_dirty(["k"]) == [True]


async def test_nothing_of_a_dirty_key_is_an_echo(state: State) -> None:
    """A delete told of while a re-created key is being copied must not be taken for the tombstone's echo."""
    await _agree(state, "k", Base(deleted=True, written=Stamp(1)))
    await state.mark([_event("k")])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=2**52)
    gone = await state.mark([Change("k", Side.BLOB, Source.EVENT_GRID, deleted=True)])
    assert gone.marked == 1
    assert not await state.settle(lease, "k", claim.hint.generation, AGREED)


async def test_a_held_delete_survives_being_told_again(state: State) -> None:
    """Scans and repeated events tell of the same delete; only news of a version ends the wait for a person."""
    await state.mark([_event("k")])
    lease = await _lease(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=2**52)
    await state.hold(lease, "k", claim.hint.generation, Held("k", Side.VAST, "delete_budget", 1))
    await state.mark([Change("k", Side.BLOB, Source.RECONCILER, deleted=True), Change("k", Side.VAST, Source.RECONCILER)])
    assert [one.key for one in await state.held()] == ["k"]
    await state.mark([_event("k", etag="0x8DBACK")])
    assert await state.held() == []


async def test_a_conflict_recorded_twice_is_one(state: State) -> None:
    """Records are idempotent by id and survive whole."""
    record = ConflictRecord(
        "id", "k", Side.BLOB, Side.VAST, "later_write", 9, "w", "l", 2, 1, 3, ".federation/conflicts/k", "",
        Metadata(content_type="text/x", user=(("a", "ü"),)),
    )  # fmt: skip
    await state.record_conflict(record)
    await state.record_conflict(dataclasses.replace(record, at_us=99))

    assert await state.conflicts() == [record]
    assert (await state.backlog()).conflicts == 1
    assert await state.drop_conflict("id")
    assert not await state.drop_conflict("id")


async def test_halts_keep_their_first_record_until_lifted(state: State) -> None:
    """The first time and text of a halt stay."""
    await state.halt(HaltRecord("container_missing", "gone", 5, self_lifting=False))
    await state.halt(HaltRecord("container_missing", "still gone", 9, self_lifting=False))

    assert await state.halts() == [HaltRecord("container_missing", "gone", 5, self_lifting=False)]
    assert await state.lift("container_missing")
    assert not await state.lift("container_missing")
    assert await state.halts() == []


async def test_a_cursor_moves_only_from_where_it_was_read(state: State) -> None:
    """Compare-and-set: of two movers one wins."""
    one, two = Cursor({"0": 5, "1": 7}, "opts", 1), Cursor({"0": 6, "1": 7}, "opts", 2)
    assert await state.cursor("vast") is None
    assert await state.move_cursor("vast", None, one)
    assert not await state.move_cursor("vast", None, two)
    assert await state.move_cursor("vast", await state.cursor("vast"), two)
    assert await state.cursor("vast") == two


async def test_notes_and_questions(state: State) -> None:
    """Notes come back as put, an empty one is none; explain and are_dirty tell what is known."""
    await state.put_note("scan:last", b"{}")
    assert await state.note("scan:last") == b"{}"
    await state.put_note("process:a", b"1")
    assert await state.notes("process:") == {"process:a": b"1"}
    await state.put_note("scan:last", b"")
    assert not await state.note("scan:last")

    await _agree(state, "k")
    await state.mark([_event("k")])
    hint, base, parked, held = await state.explain("k")
    assert hint is not None
    assert (hint.key, base, parked, held) == ("k", AGREED, None, None)
    assert await state.explain("never seen") == (None, None, None, None)
    assert await state.are_dirty(["k", "never seen"]) == [True, False]


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_an_empty_state_says_so_once(kind: str, clock: TestClock, tmp_path: Path) -> None:
    """Only the first open finds nothing; that is how a lost state is noticed."""
    async for made in _make(kind, clock, tmp_path):
        assert [await made.open(), await made.open()] == [False, True]


async def test_another_layout_is_refused_with_the_setting_to_change(clock: TestClock, tmp_path: Path) -> None:
    """The number of shards is fixed at creation."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    await RedisState(client, "pair", shards=2, clock=clock).open()
    with pytest.raises(UsageError, match=r"worker\.shards to 2"):
        await RedisState(client, "pair", shards=4, clock=clock).open()
    await client.aclose()
    await server.stop()


async def test_redis_away_is_retry_later_and_nothing_is_lost(clock: TestClock, tmp_path: Path) -> None:
    """A stopped server is RetryLater; after its return marks and base are there (append-only file) and scripts load again."""
    directory = tmp_path / "redis"
    client, server = await connect(RedisSettings(directory=directory))
    assert server is not None
    state = RedisState(client, "pair", shards=2, clock=clock)
    await state.open()
    await _agree(state, "old")
    await state.mark([_event("k")])
    await server.stop()
    with pytest.raises(RetryLater):
        await state.mark([_event("l")])

    again = EmbeddedRedis(directory)
    await again.start()
    assert await state.are_dirty(["k", "l"]) == [True, False]
    assert await state.bases(["old"]) == [AGREED]
    await client.script_flush()
    await state.mark([_event("l")])
    assert await state.are_dirty(["l"]) == [True]
    await state.close()
    await again.stop()


async def test_two_processes_on_one_directory_share_one_server(tmp_path: Path) -> None:
    """The second to come joins, and does not stop what it did not start."""
    first, second = EmbeddedRedis(tmp_path / "r"), EmbeddedRedis(tmp_path / "r")
    await asyncio.gather(first.start(), second.start())
    owners = [one for one in (first, second) if one._process is not None]
    assert len(owners) == 1

    guest = second if owners[0] is first else first
    await guest.stop()
    assert await owners[0]._answers()
    await owners[0].stop()
    assert not await owners[0]._answers()


async def test_dead_letters_are_kept_whole_and_in_order(state: State) -> None:
    """What could not be parsed can be read back byte for byte."""
    letters = [DeadLetter("vast_events", f"reason {n}", bytes([n, 255, 0]), n) for n in range(3)]
    for letter in letters:
        await state.bury(letter)
    assert await state.dead_letters() == letters
