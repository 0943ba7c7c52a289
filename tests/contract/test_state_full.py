"""A Redis at maxmemory (noeviction), a real one: no new work is taken, and work that is there goes on, which frees memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import LeaseLost, RetryLater
from federation.model import Side
from federation.progress import ConflictRecord, DeleteBudget, HaltRecord, Held, TransferRecord
from federation.state.redis_state import RedisState
from tests.contract import redis_servers
from tests.contract.redis_servers import AnyClient
from tests.contract.state_support import AGREED, TestClock, event, kept, lease_of
from tests.contract.test_state_troubles import state_on

KEYS = [f"k{number}" for number in range(500)]
BUDGET = DeleteBudget(count=9, share=1.0, window_seconds=60)
CONFLICT = ConflictRecord("id", KEYS[0], Side.BLOB, Side.VAST, "r", 1, "", "0x1", 1, 1, 9, "copy")


@asynccontextmanager
async def backlogged(folder: Path, clock: TestClock) -> AsyncIterator[tuple[RedisState, AnyClient]]:
    """A state whose keys are all dirty, and a client of its server."""
    async with redis_servers.running(folder / "redis") as server, server.client() as client, state_on(server, clock) as state:
        await state.open()
        await state.mark([event(key) for key in KEYS])
        yield state, client


async def fill(client: AnyClient) -> None:
    """From now on any command that could add memory is refused."""
    await client.config_set("maxmemory", "1")


async def taken(client: AnyClient) -> int:
    """Bytes of all keys; what the server says of itself moves with its connections."""
    return sum([await client.memory_usage(key, samples=0) for key in await client.keys("fed:*")])


async def refused(state: RedisState, key: str) -> None:
    """A mark is refused whole, by a word that its source retries."""
    with pytest.raises(RetryLater, match=r"OOM|OutOfMemory") as told:
        await state.mark([event(key, etag="0x8DEE")])
    assert told.value.reason == "redis_unavailable"


async def test_a_backlog_drains_at_maxmemory_and_marks_wait(tmp_path: Path, clock: TestClock) -> None:
    """A worker that begins then gets its shards and settles all there is; memory is freed, and marks go on with room."""
    async with backlogged(tmp_path, clock) as (state, client):
        before = await taken(client)
        await fill(client)
        await refused(state, "new")
        assert await state.own("worker:w", owner="w", ttl_seconds=60)
        for shard in range(state.shards):
            lease = await state.acquire(shard, owner="w", ttl_seconds=60)
            assert lease is not None
            while claims := await state.claim(lease, limit=100, now_us=clock.us):
                for claim in claims:
                    await state.intend(lease, claim.hint.key, AGREED)
                    assert await state.settle(lease, claim.hint.key, claim.hint.generation, AGREED)
            assert await state.renew(lease, ttl_seconds=60)
            await state.release(lease)
            assert await state.acquire(shard, owner="next", ttl_seconds=60) is not None
        backlog = await state.backlog()
        assert (backlog.dirty, backlog.objects) == (0, len(KEYS))
        assert await taken(client) < before / 2
        await refused(state, "new")
        await client.config_set("maxmemory", "0")
        assert (await state.mark([event("new")])).marked == 1


async def test_every_other_end_of_a_claim_is_recorded_at_maxmemory(tmp_path: Path, clock: TestClock) -> None:
    """Deferred, parked, held, halted, a conflict, a rename, a large transfer: each as with room."""
    async with backlogged(tmp_path, clock) as (state, client):
        await fill(client)
        lease = await lease_of(state, KEYS[0])
        one, two, three, *_ = [claim.hint for claim in await state.claim(lease, limit=9, now_us=clock.us)]
        await state.begin_transfer(lease, TransferRecord(one.key, Side.VAST, "upload", "", clock.us))
        await state.note_part(lease, one.key, 1, "part")
        transfer = await state.transfer(one.key)
        assert transfer is not None
        assert transfer.parts == {1: "part"}
        await state.defer(lease, one.key, one.generation, not_before_us=clock.us, error="later")
        await state.park(lease, two.key, two.generation, reason="r", detail="", now_us=clock.us)
        assert await state.reserve_delete(three.key, BUDGET, objects=500, now_us=clock.us)
        await state.hold(lease, three.key, three.generation, Held(three.key, Side.VAST, "r", 1))
        await state.record_conflict(CONFLICT)
        await state.halt(HaltRecord("h", "", 1, self_lifting=False))
        await state.put_note("n", b"1")
        await state.tell_pace("endpoint", "process", b"told")
        await state.note_deleted("old", "content", now_us=clock.us)
        await state.note_created("renamed", "content", now_us=clock.us)
        assert [parked.key for parked in await state.parked()] == [two.key]
        assert [held.key for held in await state.held()] == [three.key]
        assert (await state.conflicts(), [record.name for record in await state.halts()]) == ([CONFLICT], ["h"])
        assert (await state.note("n"), await state.paces("endpoint")) == (b"1", {"process": b"told"})
        assert await state.reclaim(lease, at_work=[], now_us=clock.us) == 6
        assert one.key in [claim.hint.key for claim in await state.claim(lease, limit=500, now_us=clock.us)]


async def test_a_mark_is_refused_at_maxmemory_also_where_something_is_parked(tmp_path: Path, clock: TestClock) -> None:
    """To take a key off the parked list frees memory: were that first, Redis would let the rest of the mark pass."""
    async with backlogged(tmp_path, clock) as (state, client):
        lease = await lease_of(state, KEYS[0])
        [claim] = await state.claim(lease, limit=1, now_us=clock.us)
        key = claim.hint.key
        await state.park(lease, key, claim.hint.generation, reason="r", detail="", now_us=clock.us)
        await fill(client)
        await refused(state, key)
        with pytest.raises(RetryLater, match=r"OOM|OutOfMemory"):
            await state.unpark([key], now_us=clock.us)
        assert [one.key for one in await state.parked()] == [key]
        assert await state.are_dirty([key]) == [False]
        await client.config_set("maxmemory", "0")
        assert await state.unpark([key], now_us=clock.us) == 1
        assert await state.parked() == []


@pytest.mark.parametrize("full", [False, True])
async def test_a_stale_token_changes_nothing(tmp_path: Path, clock: TestClock, full: bool) -> None:
    """Whatever Redis lets pass at maxmemory, a lease that was lost does not."""
    async with backlogged(tmp_path, clock) as (state, client):
        lease = await lease_of(state, KEYS[0])
        [claim] = await state.claim(lease, limit=1, now_us=clock.us)
        if full:
            await fill(client)
        before = await kept(state)
        stale, key, generation = replace(lease, token="not ours"), claim.hint.key, claim.hint.generation
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: state.settle(stale, key, generation, AGREED),
            lambda: state.intend(stale, key, AGREED),
            lambda: state.begin_transfer(stale, TransferRecord(key, Side.VAST, "upload", "", 1)),
            lambda: state.note_part(stale, key, 1, "part"),
            lambda: state.defer(stale, key, generation, not_before_us=1, error="later"),
            lambda: state.park(stale, key, generation, reason="r", detail="", now_us=1),
            lambda: state.claim(stale, limit=1, now_us=clock.us),
            lambda: state.reclaim(stale, at_work=[], now_us=clock.us),
        ]
        for step in steps:
            with pytest.raises(LeaseLost):
                await step()
        assert not await state.renew(stale, ttl_seconds=60)
        assert await state.acquire(lease.shard, owner="x", ttl_seconds=60) is None
        assert await kept(state) == before
