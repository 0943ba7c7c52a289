"""The state on a Redis Cluster of real servers: the same answers, redirections, a master killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import pytest
import pytest_asyncio
from redis.asyncio import RedisCluster

from federation.errors import RetryLater, UsageError
from federation.model import Base, Side, Stamp
from federation.ports import State
from federation.progress import Cursor, Held
from federation.settings import RedisSettings
from federation.state.calls import AT_ONCE
from federation.state.checking import check
from federation.state.client import remote
from federation.state.importing import filling, import_lines
from federation.state.portable import export
from federation.state.redis_state import RedisState
from tests.contract import redis_servers
from tests.contract.redis_servers import Server
from tests.contract.state_support import AGREED, TestClock, agree, event

KEYS = [f"k{number}" for number in range(60)]
SHARDS = 16


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Server]]:
    """Three masters with a replica each."""
    async with redis_servers.cluster(tmp_path_factory.mktemp("cluster"), replicas=1) as servers:
        yield servers


async def opened(server: Server, pair: str, clock: TestClock) -> RedisState:
    """A pair's state through whatever the settings lead to."""
    client = await remote(RedisSettings(url=server.url))
    assert isinstance(client, RedisCluster), "the server was asked what it is"
    state = RedisState(client, pair, shards=SHARDS, clock=clock)
    await state.open()
    return state


async def settle_everything(state: State, clock: TestClock, base: Base | None = AGREED) -> int:
    """Take every shard, settle what is due; how many keys."""
    settled = 0
    for shard in range(state.shards):
        lease = await state.acquire(shard, owner="w", ttl_seconds=60)
        assert lease is not None
        claims = await state.claim(lease, limit=100, now_us=clock.us)
        done = [state.settle(lease, claim.hint.key, claim.hint.generation, base) for claim in claims]
        settled += sum(await asyncio.gather(*done))
        await state.release(lease)
    return settled


@pytest.mark.asyncio(loop_scope="module")
async def test_a_cycle_over_all_nodes_is_that_of_one_server(nodes: list[Server], clock: TestClock) -> None:
    """Marks, claims, settles, echoes, backlog, tombstones, held, cursors and notes, whatever node serves their shard."""
    state = await opened(nodes[4], "cycle", clock)
    assert (await state.mark([event(key) for key in KEYS])).marked == len(KEYS)
    assert await state.are_dirty([*KEYS, "other"]) == [True] * len(KEYS) + [False]
    assert await settle_everything(state, clock) == len(KEYS)
    assert list(await state.bases([*KEYS, "other"])) == [AGREED] * len(KEYS) + [None]
    assert (await state.mark([event(key, etag=AGREED.blob_etag) for key in KEYS])).echoes == len(KEYS)
    backlog = await state.backlog()
    assert (backlog.dirty, backlog.objects) == (0, len(KEYS))

    await agree(state, "gone", Base(deleted=True, written=Stamp(1)))
    assert sum([await state.forget_tombstones(shard, before_us=2) for shard in range(SHARDS)]) == 1
    lease = await state.acquire(state.shard_of("p"), owner="w", ttl_seconds=60)
    assert lease is not None
    await state.mark([event("p")])
    [claim] = await state.claim(lease, limit=1, now_us=clock.us)
    await state.hold(lease, "p", claim.hint.generation, Held("p", Side.VAST, "r", 1))
    assert [one.key for one in await state.held()] == ["p"]
    await state.put_note("n", b"1")
    assert await state.notes("n") == {"n": b"1"}
    assert await state.move_cursor("s", None, Cursor({"0": 1}, "", 1))
    assert await state.cursor("s") == Cursor({"0": 1}, "", 1)
    await state.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_state_is_carried_over_checked_and_listed(nodes: list[Server], clock: TestClock, tmp_path: Path) -> None:
    """Export, an import that is cut short and repeated, check and lists in pieces, over all nodes."""
    state = await opened(nodes[4], "source", clock)
    other = RedisState(await remote(RedisSettings(url=nodes[0].url)), "copy", shards=5, clock=clock)
    for key in KEYS:
        await agree(state, key)
    await state.mark([event(key, etag="0x8DD9") for key in KEYS])
    parked = b'{"key":"p","reason":"r","detail":"","since_us":1}'
    await state.calls.pipe([("HSET", state.layout.of_shard(state.shard_of("p"), "parked"), "p", parked)])
    file = tmp_path / "state.jsonl"
    file.write_bytes(b"".join([line async for line in export(state.calls, state.layout, now_us=1)]))
    with file.open("rb") as lines:
        with pytest.raises(KeyboardInterrupt):
            await _filled(other, lines, KeyboardInterrupt())
        with pytest.raises(UsageError, match="was cut short"):
            await other.open()
        await _filled(other, lines)
    assert await other.open(create=False)
    checked = await check(other.calls, other.layout)
    assert (checked.records, checked.dirty, checked.faults) == (len(KEYS), len(KEYS), [])
    assert [one.key for one in await other.parked()] == ["p"]
    assert (await other.backlog()).objects == len(KEYS)
    await state.close()
    await other.close()


async def _filled(state: RedisState, lines: IO[bytes], end: BaseException | None = None) -> None:
    async with filling(state, now_us=1) as hold:
        await import_lines(state, lines, hold)
        if end is not None:
            raise end


@pytest.mark.asyncio(loop_scope="module")
async def test_connections_to_each_node_are_bounded_however_many_tasks_ask(nodes: list[Server], clock: TestClock) -> None:
    """A thousand at once share a pool a node; each waits its turn and is answered."""
    state = await opened(nodes[0], "pool", clock)
    before = [await _connections_received(node) for node in nodes]
    results = await asyncio.gather(*(state.mark([event(f"k{number}")]) for number in range(1_000)))
    assert sum(result.marked for result in results) == 1_000
    more = [await _connections_received(node) - earlier for node, earlier in zip(nodes, before, strict=True)]
    assert max(more) <= AT_ONCE + 1, more  # and the one that counts them
    await state.close()


async def _connections_received(server: Server) -> int:
    async with server.client() as client:
        return int((await client.info("stats"))["total_connections_received"])


@pytest.mark.asyncio(loop_scope="module")
async def test_a_slot_that_moved_is_found_and_scripts_are_loaded_where_they_are_missing(
    nodes: list[Server], clock: TestClock
) -> None:
    """MOVED is followed, and NOSCRIPT on any node is answered with the text."""
    state = await opened(nodes[0], "moved", clock)
    await state.mark([event(key) for key in KEYS])
    [master] = [one for one in await redis_servers.masters(nodes) if one is nodes[1]]
    async with master.client() as client, nodes[4].client() as replica:
        await client.script_flush()
        await replica.execute_command("CLUSTER", "FAILOVER")

        async def promoted() -> bool:
            return nodes[4] in await redis_servers.masters(nodes) and nodes[1] not in await redis_servers.masters(nodes)

        await redis_servers.until(promoted)
    await redis_servers.until(lambda: redis_servers.all_whole(nodes))  # a busy machine's nodes may miss each other for a moment
    assert (await state.mark([event(key, etag="0x8DCB") for key in KEYS])).marked == len(KEYS)
    assert await settle_everything(state, clock) == len(KEYS)
    await state.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_killed_master_is_retry_later_until_its_replica_serves(nodes: list[Server], clock: TestClock) -> None:
    """Nothing but RetryLater is raised meanwhile, and the state works again without a new client."""
    state = await opened(nodes[0], "failover", clock)
    await state.mark([event(key) for key in KEYS])
    victim = next(one for one in await redis_servers.masters(nodes) if one is not nodes[0])
    async with victim.client() as client:
        await client.execute_command("WAIT", 1, 5_000)
    victim.kill()
    refused = 0

    async def works() -> bool:
        nonlocal refused
        try:
            await state.mark([event(key, etag="0x8DCC") for key in KEYS])
            return await state.are_dirty(KEYS) == [True] * len(KEYS)
        except RetryLater:
            refused += 1
            return False

    await redis_servers.until(works)
    assert refused > 0
    assert await settle_everything(state, clock) == len(KEYS)
    assert list(await state.bases(KEYS)) == [AGREED] * len(KEYS)
    await state.close()
