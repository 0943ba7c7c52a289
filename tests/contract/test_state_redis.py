"""Redis as the state: layout, outage, the embedded server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from federation.errors import RetryLater, UsageError
from federation.model import Side
from federation.progress import Held
from federation.settings import BlobSettings, PairSettings, RedisSettings, Settings, VastSettings, WorkerSettings
from federation.state.embedded import EmbeddedRedis, connect
from federation.state.layout import room
from federation.state.redis_state import RedisState
from federation.wiring import open_state
from tests.contract.state_support import AGREED, TestClock, agree, event, lease_of, states


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_an_empty_state_says_so_once(kind: str, clock: TestClock, tmp_path: Path) -> None:
    """Only the first open finds nothing; that is how a lost state is noticed."""
    async for made in states(kind, clock, tmp_path):
        assert [await made.open(), await made.open()] == [False, True]


async def test_another_layout_is_refused_with_the_setting_to_change(clock: TestClock, tmp_path: Path) -> None:
    """The numbers of shards and of buckets are fixed at creation."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    await RedisState(client, "pair", shards=2, clock=clock).open()
    with pytest.raises(UsageError, match=r"worker\.shards to 2"):
        await RedisState(client, "pair", shards=4, clock=clock).open()
    with pytest.raises(UsageError, match=r"worker\.buckets to 160"):
        await RedisState(client, "pair", shards=2, buckets=320, clock=clock).open()
    await client.aclose()
    await server.stop()


async def test_what_killed_processes_owned_does_not_stay_for_ever(clock: TestClock, tmp_path: Path) -> None:
    """Whoever joins as a process of a name of its own drops what ended an hour ago; no other taking of a task looks."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    state = RedisState(client, "pair", shards=2, clock=clock)
    owners, now_ms = state.layout.of_pair("owners"), (await client.time())[0] * 1_000
    dead = {"worker/h:1:aa": f"{now_ms - 3_700_000} h:1:aa", "vast_events/reader/h:1:aa": "1 h:1:aa"}
    kept = {"worker/h:1:bb": f"{now_ms - 60_000} h:1:bb", "worker/h:1:cc": f"{now_ms + 60_000} h:1:cc"}
    await state.calls.pipe([("HSET", owners, name, entry) for name, entry in (dead | kept).items()])
    assert await state.own("scan/range/0", owner="h:1:dd", ttl_seconds=9)
    assert await client.hlen(owners) == 5
    assert await state.own("worker/h:1:dd", owner="h:1:dd", ttl_seconds=9)
    [names] = await state.calls.pipe([("HKEYS", owners)])
    assert {name.decode() for name in names} == {*kept, "scan/range/0", "worker/h:1:dd"}
    await state.close()
    await server.stop()


async def test_redis_away_is_retry_later_and_nothing_is_lost(clock: TestClock, tmp_path: Path) -> None:
    """A stopped server is RetryLater; after its return marks and base are there (append-only file) and scripts load again."""
    directory = tmp_path / "redis"
    client, server = await connect(RedisSettings(directory=directory))
    assert server is not None
    state = RedisState(client, "pair", shards=2, clock=clock)
    await state.open()
    await agree(state, "old")
    await state.mark([event("k")])
    await server.stop()
    with pytest.raises(RetryLater):
        await state.mark([event("l")])

    again = EmbeddedRedis(directory)
    await again.start()
    assert await state.are_dirty(["k", "l"]) == [True, False]
    assert list(await state.bases(["old"])) == [AGREED]
    await client.script_flush()
    await state.mark([event("l")])
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


async def test_a_thousand_held_deletes_cost_a_few_round_trips(clock: TestClock, tmp_path: Path) -> None:
    """To look at them and to judge them: not one trip, or two, for each key."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    state = RedisState(client, "pair", shards=4, clock=clock)
    keys = [f"k{number}" for number in range(1_000)]
    records = {key: msgspec.json.encode(Held(key, Side.VAST, "delete_budget", 7)) for key in keys}
    await state.calls.pipe([("HSET", state._of(key, "held"), key, record) for key, record in records.items()])
    trips, send = 0, state.calls._send

    async def counted(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        nonlocal trips
        trips += 1
        return await send(commands)

    state.calls._send = counted  # type: ignore[method-assign]
    assert len(await state.held(keys)) == 1_000
    assert trips == 1
    assert await state.judge(keys, verdict="released", now_us=clock.us) == 1_000
    # To read, to write and to load its script, to mark likewise.
    assert trips <= 1 + 3 + 8
    assert {one.verdict for one in await state.held(keys)} == {"released"}
    await state.close()
    await server.stop()


async def test_a_state_is_made_with_the_buckets_that_are_set(tmp_path: Path) -> None:
    """``worker.buckets`` reaches Redis, where every other program finds it."""
    blob = BlobSettings(account_url="https://a.example", container="c")
    vast = VastSettings(endpoint="https://v.example", bucket="b", access_key_env="A", secret_key_env="B")
    pair = PairSettings(name="pair", blob=blob, vast=vast)
    redis = RedisSettings(directory=tmp_path / "redis")
    settings = Settings(redis=redis, worker=WorkerSettings(shards=2, buckets=7), pair=(pair,))
    async with open_state(settings, pair) as state:
        assert isinstance(state, RedisState)
        await state.open()
        assert await state.calls.pipe([("HGET", state.layout.of_pair("meta"), "buckets")]) == [b"7"]


async def test_a_layout_has_the_room_that_is_said_of_it(clock: TestClock, tmp_path: Path) -> None:
    """So many objects, the records in two fields excepted, and every hash still has Redis' compact encoding."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    state = RedisState(client, "pair", shards=1, buckets=4, clock=clock)
    lease = await lease_of(state, "k")
    await asyncio.gather(*(state.settle(lease, f"k{number}", 0, AGREED) for number in range(room(1, 4))))
    buckets = state.layout.buckets_of(0)
    assert sum(await state.calls.pipe([("HLEN", bucket) for bucket in buckets])) == room(1, 4)
    assert set(await state.calls.pipe([("OBJECT", "ENCODING", bucket) for bucket in buckets])) <= {b"listpack", b"ziplist"}
    await state.close()
    await server.stop()


async def test_few_dirty_keys_are_in_a_table_too(clock: TestClock, tmp_path: Path) -> None:
    """Redis need not look through them one by one, and nothing but keys is among them; so too when one comes after the last."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    state = RedisState(client, "pair", shards=1, clock=clock)
    lease = await lease_of(state, "k")
    hints = state.layout.of_shard(0, "hint")
    for names in (["a"], ["a", "b"]):
        for name in names:
            await state.mark([event(name)])
        form, found = await state.calls.pipe([("OBJECT", "ENCODING", hints), ("HKEYS", hints)])
        assert (form, sorted(found)) == (b"hashtable", [name.encode() for name in names])
        for claim in await state.claim(lease, limit=9, now_us=clock.now_us()):
            await state.settle(lease, claim.hint.key, claim.hint.generation, AGREED)
        assert await state.calls.pipe([("EXISTS", hints)]) == [0]
    await state.close()
    await server.stop()
