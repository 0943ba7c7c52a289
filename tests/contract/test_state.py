"""One contract for every State, the in-memory twin and Redis: the dirty set, claims, leases and settles."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from federation.errors import LeaseLost
from federation.model import ECHO_SLACK_US, Base, Change, Side, Source, Stamp, StampOrigin
from federation.ports import State
from federation.progress import Held, Parked
from federation.state.records import key_digest
from tests.contract.state_support import AGREED, MD5, TestClock, agree, event, lease_of


async def test_a_mark_is_claimed_once_with_all_it_said(state: State, clock: TestClock) -> None:
    """A claim carries the hint as it was marked, and is not handed out twice."""
    await state.mark([event("k"), event("k", Side.VAST, None, None)])
    lease = await lease_of(state, "k")
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
    await state.mark([event(key) for key in keys])
    claimed = []
    for shard in range(state.shards):
        lease = await state.acquire(shard, owner="w", ttl_seconds=60)
        assert lease is not None
        claimed += [claim.hint.key for claim in await state.claim(lease, limit=100, now_us=clock.us)]

    assert sorted(claimed) == sorted(keys)


async def test_lag_is_the_age_of_the_oldest_unapplied_change(state: State) -> None:
    """Coalescing keeps the earliest time per side."""
    await state.mark([event("k", at_us=30), event("k", etag="0x8DCA", at_us=20), event("k", Side.VAST, MD5, 40)])
    backlog = await state.backlog()

    assert backlog.dirty == 1
    assert backlog.oldest_us_by_side == {Side.BLOB: 20, Side.VAST: 40}
    assert backlog.dirty_by_side == {Side.BLOB: 1, Side.VAST: 1}


async def test_what_has_no_time_waits_since_now_by_its_sides_clock(state: State, clock: TestClock) -> None:
    """As the times of all others are: by ours it would look younger than it is where the side's clock is behind (rule 9)."""
    state.ahead_us[Side.VAST] = -30_000_000
    await state.mark([Change("k", side, Source.RECONCILER, deleted=True) for side in Side])
    assert (await state.backlog()).oldest_us_by_side == {Side.BLOB: clock.us, Side.VAST: clock.us - 30_000_000}


async def test_a_time_to_come_waits_since_its_mark(state: State, clock: TestClock) -> None:
    """A file's time may be set to anything: what lies in the future of its side's clock hides no lag (rule 9)."""
    state.ahead_us[Side.VAST] = -30_000_000
    await state.mark([event("k", side, MD5, at_us=clock.us + 3_600_000_000) for side in Side])
    assert (await state.backlog()).oldest_us_by_side == {Side.BLOB: clock.us, Side.VAST: clock.us - 30_000_000}


async def test_settling_ends_the_lag_and_records_the_base(state: State, clock: TestClock) -> None:
    """After a settle nothing is dirty and the base is what was settled."""
    await state.mark([event("k")])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    assert await state.settle(lease, "k", claim.hint.generation, AGREED)
    backlog = await state.backlog()

    assert (backlog.dirty, backlog.objects) == (0, 1)
    assert backlog.oldest_us_by_side == {Side.BLOB: None, Side.VAST: None}
    assert list(await state.bases(["k", "other"])) == [AGREED, None]


async def test_echoes_are_dropped_and_news_is_not(state: State) -> None:
    """The agreed ETag is an echo; on VAST only if its time allows that it tells of what we know."""
    base = replace(AGREED, vast_as_of_us=50_000_000)
    await agree(state, "k", base)
    result = await state.mark(
        [
            event("k", etag=base.blob_etag, at_us=99_000_000),
            event("k", Side.VAST, MD5, 50_000_000),
            event("k", Side.VAST, MD5, 50_000_000 + ECHO_SLACK_US),
            event("k", Side.VAST, MD5, None),
        ]
    )
    assert (result.marked, result.echoes) == (0, 4)

    for change in (event("k", etag="0x8DC2"), event("k", Side.VAST, MD5, 50_000_001 + ECHO_SLACK_US), event("k", etag=None)):
        assert (await state.mark([change])).marked == 1
    assert (await state.mark([Change("k", Side.VAST, Source.VAST_EVENTS, deleted=True)])).marked == 1


async def test_a_delete_of_a_tombstone_is_an_echo(state: State) -> None:
    """Both sides agreed on absence already; a create is news."""
    await agree(state, "k", Base(deleted=True, written=Stamp(1)))

    assert (await state.mark([Change("k", Side.VAST, Source.VAST_EVENTS, deleted=True)])).echoes == 1
    assert (await state.mark([event("k")])).marked == 1


async def test_too_many_versions_become_one_of_unknown_version(state: State, clock: TestClock) -> None:
    """What does not fit is never mistaken for known, and keeps the earliest time."""
    await state.mark([event("k", etag=f"0x8DC{n}", at_us=100 + n) for n in range(1, 7)])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)

    assert None in [entry.etag for entry in claim.hint.blob]
    assert (await state.backlog()).oldest_us_by_side[Side.BLOB] == 101


async def test_the_latest_time_of_one_version_is_kept(state: State, clock: TestClock) -> None:
    """Two events of one ETag are one entry; its time decides whether it can be an echo."""
    await state.mark([event("k", Side.VAST, MD5, 20), event("k", Side.VAST, MD5, 10)])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)

    assert [entry.at and entry.at.at_us for entry in claim.hint.vast] == [20]


@pytest.mark.parametrize("scan_first", [True, False])
async def test_a_scan_does_not_blur_the_time_of_an_event(state: State, scan_first: bool) -> None:
    """A listing's whole second of the same version leaves the event's microseconds, whichever was marked first."""
    listed = Change("k", Side.BLOB, Source.RECONCILER, etag="0x8DC9", at=Stamp(10_000_000))
    told = [event("k", at_us=10_000_000), event("j", at_us=10_400_000)]
    await state.mark([listed, *told] if scan_first else [*told, listed])
    await state.mark([replace(listed, key="j")])
    for key in ("k", "j"):
        hint = (await state.explain(key))[0]
        assert hint is not None
        assert [entry.at and entry.at.precision_us for entry in hint.blob] == [1]


async def test_claims_that_nobody_works_on_come_back(state: State, clock: TestClock) -> None:
    """After a failover a claim may be left whose end was forgotten; what is at work is not handed out twice."""
    await state.mark([event("k")])
    lease = await lease_of(state, "k")
    assert len(await state.claim(lease, limit=1, now_us=clock.us)) == 1

    assert await state.reclaim(lease, at_work=["k"], now_us=clock.us) == 0
    assert await state.claim(lease, limit=1, now_us=clock.us) == []
    assert await state.reclaim(lease, at_work=[], now_us=clock.us) == 1
    assert len(await state.claim(lease, limit=1, now_us=clock.us)) == 1


async def test_a_key_marked_while_it_is_worked_on_stays_dirty_with_only_the_news(state: State, clock: TestClock) -> None:
    """Nothing is lost between claim and settle, and what was done is not done again."""
    await state.mark([event("k", etag="0x8DCA", at_us=10)])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.mark([event("k", etag="0x8DCB", at_us=20)])

    assert await state.claim(lease, limit=1, now_us=clock.us) == []
    assert not await state.settle(lease, "k", claim.hint.generation, AGREED)
    assert (await state.backlog()).oldest_us_by_side[Side.BLOB] == 20
    [again] = await state.claim(lease, limit=1, now_us=clock.us)
    assert [entry.etag for entry in again.hint.blob] == ["0x8DCB"]
    assert again.base == AGREED


async def test_after_a_settle_lag_counts_from_the_earliest_change_since(state: State, clock: TestClock) -> None:
    """Also where that one merged with a later one of the same version: two deletes, with a new object between them."""

    def deleted(at_us: int) -> Change:
        return Change("k", Side.BLOB, Source.EVENT_GRID, deleted=True, at=Stamp(at_us, 1, StampOrigin.EVENT))

    await state.mark([event("k", at_us=10)])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.mark([deleted(20), event("k", etag="0x8DCA", at_us=22), deleted(30)])
    assert not await state.settle(lease, "k", claim.hint.generation, AGREED)
    assert (await state.backlog()).oldest_us_by_side == {Side.BLOB: 20, Side.VAST: None}


async def test_a_deferred_key_waits_and_counts_its_attempts(state: State, clock: TestClock) -> None:
    """It is not due before its time; a mark meanwhile brings it forward."""
    await state.mark([event("k")])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.defer(lease, "k", claim.hint.generation, not_before_us=clock.us + 1000, error="later")

    assert await state.claim(lease, limit=1, now_us=clock.us) == []
    [again] = await state.claim(lease, limit=1, now_us=clock.us + 1000)
    assert (again.hint.attempts, again.hint.last_error) == (1, "later")
    await state.defer(lease, "k", again.hint.generation, not_before_us=clock.us + 9000, error="", count_attempt=False)
    await state.mark([event("k", etag="0x8DCE")])
    [third] = await state.claim(lease, limit=1, now_us=clock.us)
    assert third.hint.attempts == 1


async def test_not_before_holds_a_young_key_back(state: State, clock: TestClock) -> None:
    """A scan may ask to look later; news without such a wish is due at once."""
    await state.mark([Change("k", Side.VAST, Source.RECONCILER, not_before_us=clock.us + 500)])
    lease = await lease_of(state, "k")
    assert await state.claim(lease, limit=1, now_us=clock.us) == []
    await state.mark([event("k", Side.VAST, MD5)])

    assert len(await state.claim(lease, limit=1, now_us=clock.us)) == 1


async def test_a_shard_has_one_owner_and_a_stale_token_changes_nothing(state: State, clock: TestClock) -> None:
    """Every leased step refuses a token that is not the shard's."""
    await state.mark([event("k")])
    old = await lease_of(state, "k")
    assert await state.acquire(old.shard, owner="other", ttl_seconds=60) is None
    await state.claim(old, limit=1, now_us=clock.us)
    await state.release(old)
    new = await lease_of(state, "k")

    assert new.fence > old.fence
    assert not await state.renew(old, ttl_seconds=60)
    assert await state.renew(new, ttl_seconds=60)
    held = Held("k", Side.VAST, "budget", 1)
    for step in (
        state.claim(old, limit=1, now_us=clock.us),
        state.reclaim(old, at_work=[], now_us=clock.us),
        state.settle(old, "k", 1, AGREED),
        state.intend(old, "k", AGREED),
        state.defer(old, "k", 1, not_before_us=0, error=""),
        state.park(old, "k", 1, reason="r", detail="", now_us=1),
        state.hold(old, "k", 1, held),
    ):
        with pytest.raises(LeaseLost):
            await step
    assert list(await state.bases(["k"])) == [None]
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
    intent = replace(AGREED, vast_etag="")
    await state.mark([event("k")])
    first = await lease_of(state, "k")
    await state.claim(first, limit=1, now_us=clock.us)
    await state.intend(first, "k", intent)
    await state.release(first)
    second = await lease_of(state, "k")
    [claim] = await state.claim(second, limit=1, now_us=clock.us)

    assert claim.intent == intent
    await state.settle(second, "k", claim.hint.generation, AGREED)
    await state.mark([event("k", etag="0x8DCF")])
    [later] = await state.claim(second, limit=1, now_us=clock.us)
    assert later.intent is None


@pytest.mark.parametrize("step", ["park", "hold"])
async def test_nothing_is_taken_off_that_was_marked_meanwhile(state: State, clock: TestClock, step: str) -> None:
    """News beats parking and holding."""
    await state.mark([event("k")])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.mark([event("k", etag="0x8DCB")])
    if step == "park":
        await state.park(lease, "k", claim.hint.generation, reason="r", detail="", now_us=1)
    else:
        await state.hold(lease, "k", claim.hint.generation, Held("k", Side.BLOB, "r", 1))

    assert (await state.parked(), await state.held()) == ([], [])
    assert len(await state.claim(lease, limit=1, now_us=clock.us)) == 1


async def test_parked_keys_are_read_by_shard(state: State, clock: TestClock) -> None:
    """Each is in the pieces of its own shard, until it is marked."""
    await state.mark([event("k")])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.park(lease, "k", claim.hint.generation, reason="r", detail="d", now_us=1)
    found = [await state.parked_records(shard, cursor=0) for shard in range(state.shards)]
    assert found == [(0, [Parked("k", "r", "d", 1)] if shard == lease.shard else []) for shard in range(state.shards)]
    await state.mark([event("k")])
    assert await state.parked_records(lease.shard, cursor=0) == (0, [])


async def test_a_repeated_settle_does_not_take_a_newer_hint_for_its_own(state: State) -> None:
    """A settle whose reply was lost is sent again, after the key was written once more: the key stays dirty."""
    await state.mark([event("k")])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=2**52)
    assert await state.settle(lease, "k", claim.hint.generation, AGREED)
    await state.mark([event("k", etag="0x8DNEW")])
    assert not await state.settle(lease, "k", claim.hint.generation, AGREED)
    assert await state.are_dirty(["k"]) == [True]


async def test_nothing_of_a_dirty_key_is_an_echo(state: State) -> None:
    """A delete told of while a re-created key is being copied must not be taken for the tombstone's echo."""
    await agree(state, "k", Base(deleted=True, written=Stamp(1)))
    await state.mark([event("k")])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=2**52)
    gone = await state.mark([Change("k", Side.BLOB, Source.EVENT_GRID, deleted=True)])
    assert gone.marked == 1
    assert not await state.settle(lease, "k", claim.hint.generation, AGREED)


async def test_what_ended_a_claim_ends_no_other_one(state: State, clock: TestClock) -> None:
    """A settle, defer or park repeated after a lost reply changes nothing: the key may be agreed on anew, or at work again."""
    await state.mark([event("k", etag="0x8DCA")])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    assert await state.settle(lease, "k", claim.hint.generation, AGREED)

    await state.mark([event("k", etag="0x8DCB")])
    [again] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.settle(lease, "k", claim.hint.generation, AGREED)
    await state.defer(lease, "k", claim.hint.generation, not_before_us=0, error="")
    await state.park(lease, "k", claim.hint.generation, reason="r", detail="d", now_us=clock.us)
    assert await state.claim(lease, limit=1, now_us=clock.us) == []

    gone = Base(deleted=True, written=Stamp(1_000_000))
    assert await state.settle(lease, "k", again.hint.generation, gone)
    await state.settle(lease, "k", claim.hint.generation, AGREED)
    assert list(await state.bases(["k"])) == [gone]
    assert await state.parked() == []


@pytest.mark.parametrize("marked", [False, True], ids=["alone", "marked meanwhile"])
async def test_a_repeated_defer_ends_no_later_claim(state: State, clock: TestClock, marked: bool) -> None:
    """The key came due and is at work again when the call whose reply was lost is repeated: it stays so, and its end counts."""
    await state.mark([event("k")])
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    if marked:
        await state.mark([event("k", etag="0x8DCA")])
    await state.defer(lease, "k", claim.hint.generation, not_before_us=clock.us, error="later")
    [again] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.defer(lease, "k", claim.hint.generation, not_before_us=clock.us, error="later")
    assert await state.claim(lease, limit=1, now_us=clock.us) == []
    assert again.hint.generation > claim.hint.generation
    assert again.hint.attempts == 1
    assert await state.settle(lease, "k", again.hint.generation, AGREED)
    assert (list(await state.bases(["k"])), await state.are_dirty(["k"])) == ([AGREED], [False])


async def test_base_records_are_read_and_dropped_by_digest(state: State) -> None:
    """All of a shard's records are given; only one that is still exactly what was seen is dropped, and counted off."""
    for key in ("a", "b"):
        await agree(state, key)
    seen = {}
    for shard in range(state.shards):
        cursor, found = await state.base_records(shard, cursor=0)
        seen[shard] = list(found)
        while cursor:
            cursor, found = await state.base_records(shard, cursor=cursor)
            seen[shard] += found
    assert {name for records in seen.values() for name, _ in records} == {key_digest("a"), key_digest("b")}
    await agree(state, "b", replace(AGREED, blob_etag="0x8DC2"))
    dropped = [await state.forget_bases(shard, records) for shard, records in seen.items()]
    assert sum(dropped) == 1
    first, second = await state.bases(["a", "b"])
    assert first is None
    assert second is not None
    assert (await state.backlog()).objects == 1


async def test_waiting_tells_which_shards_need_somebody_and_when(state: State, clock: TestClock) -> None:
    """A shard without dirty keys is left out; a deferred key is due later; a claimed one counts as due, whoever claimed it."""
    assert await state.waiting() == {}
    shard = state.shard_of("k")
    await state.mark([event("k")])
    assert await state.waiting() == {shard: clock.us}
    lease = await lease_of(state, "k")
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    assert await state.waiting([shard]) == {shard: 0}
    await state.defer(lease, "k", claim.hint.generation, not_before_us=clock.us + 5_000_000, error="")
    assert await state.waiting() == {shard: clock.us + 5_000_000}
    assert await state.waiting([other for other in range(state.shards) if other != shard]) == {}
