"""One contract for every State, the in-memory twin and Redis: parked, held, budgets, conflicts, halts, cursors and notes."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Sequence
from unittest.mock import ANY
from uuid import uuid4

import pytest

from federation.errors import UsageError
from federation.model import Base, Change, Metadata, Side, Source, Stamp
from federation.ports import State
from federation.progress import (
    PACE_KEPT_SECONDS,
    ConflictRecord,
    Cursor,
    DeadLetter,
    DeadTally,
    DeleteBudget,
    DeleteTally,
    HaltRecord,
    Held,
)
from federation.state import memory_records, redis_state
from federation.state.layout import of_endpoint
from federation.state.redis_state import RedisState
from federation.sync.gates import PaceShare
from federation.sync.pacing import Gate
from tests.contract.state_support import AGREED, TestClock, agree, beside, event, lease_of

BIG = DeleteBudget(count=1000, share=1.0, window_seconds=3600)


async def test_parked_keys_come_back_on_news_and_by_an_operator(state: State, clock: TestClock) -> None:
    """Parked is out of the dirty set, with its reason, until something changes."""
    lease = None
    for key in ("k", "l"):
        await state.mark([event(key)])
        lease = await lease_of(state, key)
        [claim] = await state.claim(lease, limit=1, now_us=clock.us)
        await state.park(lease, key, claim.hint.generation, reason="archived", detail="cold", now_us=7)
        await state.release(lease)

    assert sorted((one.key, one.reason, one.since_us) for one in await state.parked()) == [
        ("k", "archived", 7),
        ("l", "archived", 7),
    ]
    backlog = await state.backlog()
    assert (backlog.dirty, backlog.parked, backlog.oldest_us_by_side[Side.BLOB]) == (0, 2, None)
    await state.mark([event("k", etag="0x8DCD")])
    assert await state.unpark(["l", "unknown"], now_us=clock.us) == 1
    assert await state.parked() == []
    assert sorted(await state.dirty_keys(limit=9)) == ["k", "l"]


async def test_a_held_delete_waits_for_a_verdict(state: State, clock: TestClock) -> None:
    """The verdict reaches the worker with the claim, beside whatever news there is; a settle ends it."""
    held = Held("k", Side.VAST, "delete_budget", 7)
    await state.mark([event("k", etag=None)])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.hold(lease, "k", claim.hint.generation, held)

    assert await state.held() == [held]
    assert (await state.backlog()).held == 1
    assert await state.judge(["k", "unknown"], verdict="released", now_us=clock.us) == 1
    [judged] = await state.claim(lease, limit=1, now_us=clock.us)
    assert judged.held is not None
    assert judged.held.verdict == "released"
    await state.mark([event("k", etag="0x8DCC")])
    assert not await state.settle(lease, "k", judged.hint.generation, None)
    assert await state.held() == []


async def _hold(state: State, clock: TestClock, keys: Sequence[str]) -> None:
    await state.mark([event(key) for key in keys])
    for shard in range(state.shards):
        lease = await state.acquire(shard, owner="w", ttl_seconds=60)
        assert lease is not None
        for claim in await state.claim(lease, limit=len(keys), now_us=clock.us):
            key = claim.hint.key
            await state.hold(lease, key, claim.hint.generation, Held(key, Side.VAST, "delete_budget", 7))
        await state.release(lease)


async def test_held_deletes_of_some_keys_are_told_without_the_others(state: State, clock: TestClock) -> None:
    """In order, each once, whichever shard they are in; keys that are not held are left out."""
    await _hold(state, clock, [f"k{number}" for number in range(9)])
    assert [one.key for one in await state.held(["k7", "unknown", "k3", "k7", "k0"])] == ["k0", "k3", "k7"]
    assert await state.held([]) == []
    assert len(await state.held()) == 9


async def test_many_held_deletes_are_judged_in_pieces(state: State, clock: TestClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has the verdict and is dirty, however many there are and in however many pieces; a key named twice counts once."""
    monkeypatch.setattr(redis_state, "_JUDGED_AT_ONCE", 4)
    keys = [f"k{number}" for number in range(10)]
    await _hold(state, clock, keys)
    assert await state.judge([*keys, "k1", "unknown"], verdict="rejected", now_us=clock.us) == 10
    assert {one.verdict for one in await state.held()} == {"rejected"}
    assert await state.are_dirty([*keys, "unknown"]) == [True] * 10 + [False]


async def test_the_count_of_objects_follows_the_base(state: State) -> None:
    """Tombstones, forgotten keys and what one side keeps alone are no objects of both."""
    for base, expected in (
        (AGREED, 1),
        (AGREED, 1),
        (Base(deleted=True), 0),
        (AGREED, 1),
        (dataclasses.replace(AGREED, vast_etag=""), 0),
        (dataclasses.replace(AGREED, blob_etag=""), 0),
        (AGREED, 1),
        (None, 0),
    ):
        lease = await lease_of(state, "k")
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


async def test_old_tombstones_are_forgotten_and_nothing_else(state: State) -> None:
    """By the delete's own time; a live record stays however old, and the count of objects does not move."""
    second = 1_000_000
    times = {"old": 99, "edge": 100, "young": 101}
    await agree(state, "live", dataclasses.replace(AGREED, written=Stamp(1)))
    for key, at in times.items():
        await agree(state, key, Base(deleted=True, written=Stamp(at * second)))
    forgotten = [await state.forget_tombstones(shard, before_us=100 * second) for shard in range(state.shards)]

    assert sum(forgotten) == 1
    assert [base is not None for base in await state.bases(["live", "old", "edge", "young"])] == [True, False, True, True]
    assert (await state.backlog()).objects == 1
    assert await state.forget_tombstones(0, before_us=0) == 0


async def test_each_contested_key_has_its_own_limit_of_undone_writes(state: State, clock: TestClock) -> None:
    """A repeat costs nothing, another key has its own, and the window gives it back."""

    async def take(key: str, name: str, now_us: int) -> bool:
        return await state.reserve_revert(key, name, limit=2, window_seconds=10, now_us=now_us)

    grants = [await take("k", name, clock.us) for name in ("a", "b", "c", "a")]
    assert grants == [True, True, False, True]
    assert await take("other", "c", clock.us)
    assert await take("k", "c", clock.us + 10_000_001)
    assert await state.reserve_delete("a", DeleteBudget(1, 1.0, 10), objects=0, now_us=clock.us), "the delete budget is another"


@pytest.mark.parametrize("first", ["created", "deleted"])
async def test_a_delete_and_an_equal_content_elsewhere_are_a_rename(state: State, clock: TestClock, first: str) -> None:
    """Whichever half is heard of first; the same key, another content or another time make none."""
    minute = 60_000_000

    async def delete(key: str, content: str, now_us: int) -> None:
        await state.note_deleted(key, content, now_us=now_us)
        assert await state.reserve_delete(f"vast:{key}", BIG, objects=0, now_us=now_us)

    halves = [state.note_created("new", "m1:5", now_us=clock.us), delete("old", "m1:5", clock.us + minute)]
    for half in halves if first == "created" else reversed(halves):
        await half
    await state.note_created("late", "m2:5", now_us=clock.us)
    await delete("same", "m3:5", clock.us)
    await state.note_created("same", "m3:5", now_us=clock.us)
    await delete("other size", "m1:6", clock.us)
    await delete("much later", "m2:5", clock.us + 21 * minute)

    assert await state.delete_tally(BIG, now_us=clock.us + 21 * minute) == DeleteTally(done=4, done_renames=1)
    short = dataclasses.replace(BIG, window_seconds=1)
    assert await state.delete_tally(short, now_us=clock.us + 21 * minute) == DeleteTally(done=1)


async def test_held_deletes_that_are_renames_are_counted_among_the_held(state: State, clock: TestClock) -> None:
    """1,200 deletes, 1,150 of them renames, in small."""
    for number in range(5):
        key = f"old {number}"
        await state.mark([event(key)])
        lease = await lease_of(state, key)
        [claim] = await state.claim(lease, limit=1, now_us=clock.us)
        await state.note_deleted(key, f"m{number}:5", now_us=clock.us)
        await state.hold(lease, key, claim.hint.generation, Held(key, Side.VAST, "delete_budget", clock.us))
        await state.release(lease)
    for number in range(3):
        await state.note_created(f"new {number}", f"m{number}:5", now_us=clock.us)

    assert await state.delete_tally(BIG, now_us=clock.us) == DeleteTally(held=5, held_renames=3)


async def test_a_held_delete_survives_being_told_again(state: State) -> None:
    """Scans and repeated events tell of the same delete and of the version it met; only a settle ends the wait for a person."""
    await state.mark([event("k")])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=2**52)
    await state.hold(lease, "k", claim.hint.generation, Held("k", Side.VAST, "delete_budget", 1))
    await state.mark([Change("k", Side.BLOB, Source.RECONCILER, deleted=True), Change("k", Side.VAST, Source.RECONCILER)])
    assert [one.key for one in await state.held()] == ["k"]
    await state.mark([event("k", etag="0x8DBACK")])
    [claim] = await state.claim(lease, limit=1, now_us=2**52)
    assert [one.key for one in await state.held()] == ["k"]
    assert claim.held is not None

    await state.settle(lease, "k", claim.hint.generation, AGREED)
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
    other = dataclasses.replace(record, conflict_id="other", key="l", at_us=1)
    await state.record_conflict(other)
    assert (await state.conflicts("k"), await state.conflicts("l"), await state.conflicts("m")) == ([record], [other], [])
    assert (await state.conflicts(), await state.conflict_ids()) == ([other, record], {"id", "other"})
    assert await state.drop_conflict("other")
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


async def test_a_note_that_was_written_again_is_not_dropped(state: State) -> None:
    """Of one who fulfils a wish and one who renews it, the renewal stays."""
    await state.put_note("wish", b"1")
    assert not await state.drop_note("other", b"1")
    await state.put_note("wish", b"2")
    assert not await state.drop_note("wish", b"1")
    assert await state.note("wish") == b"2"
    assert await state.drop_note("wish", b"2")
    assert await state.note("wish") is None


async def test_a_task_is_one_owner_s_until_it_gives_it_back_or_stops_renewing(state: State) -> None:
    """Two processes never read one partition for long, and a dead one's is free when its time is over."""
    assert await state.own("vast/0", owner="a", ttl_seconds=60)
    assert await state.own("vast/0", owner="a", ttl_seconds=60)
    assert not await state.own("vast/0", owner="b", ttl_seconds=60)
    assert await state.own("vast/1", owner="b with a space", ttl_seconds=0.05)
    await state.disown("vast/0", owner="b")
    assert (await state.owners("vast/"))["vast/0"] == "a"
    assert await state.owners("feed") == {}
    async with asyncio.timeout(5):
        while not await state.own("vast/1", owner="a", ttl_seconds=60):
            await asyncio.sleep(0.01)
    assert await state.owners("vast/") == {"vast/0": "a", "vast/1": "a"}
    await state.disown("vast/0", owner="a")
    assert await state.own("vast/0", owner="b", ttl_seconds=60)


async def test_notes_and_questions(state: State) -> None:
    """Notes come back as put, an empty one is none; explain and are_dirty tell what is known."""
    await state.put_note("scan:last", b"{}")
    assert await state.note("scan:last") == b"{}"
    await state.put_note("process:a", b"1")
    assert await state.notes("process:") == {"process:a": b"1"}
    await state.put_note("scan:last", b"")
    assert not await state.note("scan:last")

    await agree(state, "k")
    await state.mark([event("k")])
    hint, base, parked, held = await state.explain("k")
    assert hint is not None
    assert (hint.key, base, parked, held) == ("k", AGREED, None, None)
    assert await state.explain("never seen") == (None, None, None, None)
    assert await state.are_dirty(["k", "never seen"]) == [True, False]


async def test_what_is_said_of_an_endpoint_is_heard_by_all_pairs(state: State, clock: TestClock) -> None:
    """By process, the last word of each; another endpoint is another matter, and silence is no word."""
    other = beside(state, clock)
    place = f"blob https://{uuid4().hex}.example"
    assert await state.paces(place) == {}
    await state.tell_pace(place, "host:1", b"early")
    await state.tell_pace(place, "host:1", b"late")
    await other.tell_pace(place, "host:2", b"\xff\x00")
    assert await state.paces(place) == await other.paces(place) == {"host:1": b"late", "host:2": b"\xff\x00"}
    assert await other.paces(f"{place}/elsewhere") == {}
    await other.tell_pace(place, "host:1", b"")
    assert await state.paces(place) == {"host:2": b"\xff\x00"}
    if isinstance(state, RedisState):
        assert 0 < await state._redis.ttl(of_endpoint(place)) <= PACE_KEPT_SECONDS


@pytest.mark.parametrize("state_kind", [("redis", "")], ids=["redis"])
async def test_what_is_no_notice_in_the_place_of_the_notices_ends_no_pair(state: State, clock: TestClock) -> None:
    """A key of another type, or a process's name that is no text: one works on alone, the other is heard, and goes in time."""
    assert isinstance(state, RedisState)
    gates = {side: Gate(side, clock, endpoint=f"{side} {uuid4().hex}") for side in Side}
    share = PaceShare(state, gates, clock, "we")
    await state._redis.hset(of_endpoint(gates[Side.VAST].endpoint), b"\xff", b"\xff")
    await share.exchange()
    assert [gates[side].sharers for side in Side] == [1, 2]
    clock.us += 600_000_001
    await share.exchange()
    assert await state.paces(gates[Side.VAST].endpoint) == {"we": ANY}

    await state._redis.set(of_endpoint(gates[Side.BLOB].endpoint), b"of another type")
    gates[Side.VAST].sharers = 2
    for step in (share.exchange, share.leave):
        await step()
    assert [gates[side].sharers for side in Side] == [1, 1]
    with pytest.raises(UsageError, match=re.escape(of_endpoint(gates[Side.BLOB].endpoint))):
        await state.paces(gates[Side.BLOB].endpoint)


async def test_dead_letters_are_kept_whole_and_in_order(state: State) -> None:
    """What could not be parsed can be read back byte for byte."""
    letters = [DeadLetter("vast_events", f"reason {n}", bytes([n, 255, 0]), n) for n in range(3)]
    for letter in letters:
        await state.bury(letter)
    assert await state.dead_letters() == letters
    assert (await state.backlog()).dead.kept == 3


async def test_dead_letters_are_bounded_by_count_and_bytes(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are dropped and counted; the tally tells how much is kept and when each source buried last."""
    for module in (memory_records, redis_state):
        monkeypatch.setattr(module, "DEAD_LETTERS", 3)
        monkeypatch.setattr(module, "DEAD_LETTER_BYTES", 1000)
    assert (await state.backlog()).dead == DeadTally()
    letters = [DeadLetter("event_grid_queue" if n % 2 else "vast_events", "r", b"x" * 100, n) for n in range(5)]
    for letter in letters:
        await state.bury(letter)
    assert await state.dead_letters() == letters[2:]
    tally = (await state.backlog()).dead
    assert (tally.kept, tally.dropped, tally.newest_us) == (3, 2, {"vast_events": 4, "event_grid_queue": 3})
    assert 300 < tally.kept_bytes <= 1000
    await state.bury(DeadLetter("vast_events", "r", b"y" * 600, 9))
    assert [letter.at_us for letter in await state.dead_letters()] == [9]
    await state.bury(DeadLetter("vast_events", "r", b"z" * 2000, 10))
    tally = (await state.backlog()).dead
    assert (await state.dead_letters(), tally.kept_bytes, tally.dropped) == ([], 0, 7)
