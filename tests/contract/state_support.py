"""What the contract tests of the state share: a clock set by hand, fresh states, short ways to a situation."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from federation.model import Base, Change, Side, Source, Stamp, StampOrigin
from federation.ports import Clock, State
from federation.progress import Lease
from federation.settings import RedisSettings
from federation.state.embedded import connect
from federation.state.memory_state import MemoryState
from federation.state.redis_state import RedisState

MD5 = "0cc175b9c0f1b6a831c399e269772661"
AGREED = Base(blob_etag="0x8DC1", vast_etag=MD5, md5=MD5, metadata_digest=b"12345678", written=Stamp(5_000_000), size_bytes=9)

STATE_TOML = """[redis]
url = "{url}"
[worker]
shards = {shards}
[[pair]]
name = "pair"
[pair.blob]
account_url = "http://127.0.0.1:1/acct"
container = "c"
[pair.vast]
endpoint = "http://127.0.0.1:1"
bucket = "b"
access_key_env = "A"
secret_key_env = "S"
"""
"""Settings of a pair whose sides nobody reaches: for commands that ask the state alone."""


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


async def states(
    kind: str, clock: Clock, tmp_path: Path, shards: int = 2, url: str = "embedded", marker: str = ""
) -> AsyncIterator[State]:
    """One state of *kind*, not yet opened; its server, unless it is that of *url*, ends with it."""
    if kind == "memory":
        yield MemoryState("pair", shards=shards, clock=clock, marker=marker)
        return
    client, server = await connect(RedisSettings(url=url or "embedded", directory=tmp_path / "redis"))
    redis_state = RedisState(client, f"pair-{uuid4().hex[:8]}", shards=shards, clock=clock, marker=marker)
    yield redis_state
    await redis_state.close()
    if server is not None:
        await server.stop()


def beside(state: State, clock: Clock) -> State:
    """The state of another pair in the same server; not opened."""
    if isinstance(state, MemoryState):
        other = MemoryState("beside", shards=2, clock=clock)
        other.told_paces = state.told_paces
        return other
    assert isinstance(state, RedisState)
    return RedisState(state._redis, f"beside-{state.layout.pair}", shards=2, clock=clock)


async def kept(state: State) -> dict[Any, Any]:
    """What a replica of *state* holds now."""
    if isinstance(state, MemoryState):
        return copy.deepcopy({name: value for name, value in vars(state).items() if name != "_clock"})
    assert isinstance(state, RedisState)
    keys = [key async for key in state._redis.scan_iter(f"fed:{{{state.layout.pair}/*")]
    return {key: await state._redis.dump(key) for key in keys}


async def go_back(state: State, to: dict[Any, Any]) -> None:
    """The replica takes over."""
    if isinstance(state, MemoryState):
        vars(state).update(copy.deepcopy(to))
        return
    assert isinstance(state, RedisState)
    async for key in state._redis.scan_iter(f"fed:{{{state.layout.pair}/*"):
        await state._redis.delete(key)
    for key, value in to.items():
        await state._redis.restore(key, 0, value)


def event(key: str, side: Side = Side.BLOB, etag: str | None = "0x8DC9", at_us: int | None = 10_000_000) -> Change:
    """A change as Event Grid or VAST told it."""
    at = Stamp(at_us, 1, StampOrigin.EVENT) if at_us is not None else None
    return Change(key, side, Source.EVENT_GRID, etag=etag, at=at)


async def lease_of(state: State, key: str) -> Lease:
    """A lease on the shard of *key*."""
    lease = await state.acquire(state.shard_of(key), owner="w", ttl_seconds=60)
    assert lease is not None
    return lease


async def agree(state: State, key: str, base: Base = AGREED) -> None:
    """Both sides hold *base*, as the state knows."""
    lease = await lease_of(state, key)
    await state.settle(lease, key, 0, base)
    await state.release(lease)
