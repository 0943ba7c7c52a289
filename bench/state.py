"""State in Redis: bytes a key at 5,000 and 100,000 keys, and what a mark, an echo and a whole cycle cost beside Redis' own floor.

python bench/state.py
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from federation.clock import SystemClock
from federation.model import Base, Change, Side, Source, Stamp, StampOrigin
from federation.progress import Lease
from federation.settings import RedisSettings
from federation.state.embedded import connect
from federation.state.redis_state import RedisState

BATCH = 200
SIZES = (5_000, 100_000)
FAR_US = 2**52


def key_of(number: int) -> str:
    """A name of everyday length."""
    return f"department/project-{number % 97:02d}/run-{number // 1000:04d}/part-{number:08d}.parquet"


def changes(start: int, count: int, *, etag: str = "") -> list[Change]:
    """News (or echoes, with the agreed ETag) of *count* keys."""
    at = Stamp(1_700_000_000_000_000, 1, StampOrigin.EVENT)
    return [
        Change(key_of(number), Side.BLOB, Source.EVENT_GRID, etag=etag or f"0x8DD{number:013X}", at=at)
        for number in range(start, start + count)
    ]


def base_of(key: str) -> Base:
    """An agreed record as a copy leaves it."""
    md5 = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
    return Base(
        blob_etag=f"0x8DD{int(md5[:13], 16):013X}",
        vast_etag=md5,
        md5=md5,
        metadata_digest=bytes.fromhex(md5[:16]),
        written=Stamp(1_700_000_000_123_456, 1, StampOrigin.EVENT),
        size_bytes=123_456,
        vast_as_of_us=1_700_000_001_000_000,
    )


async def settle_all(state: RedisState, leases: list[Lease]) -> int:
    """Claim and settle what is dirty; how many keys."""
    settled = 0
    for lease in leases:
        while claims := await state.claim(lease, limit=BATCH, now_us=FAR_US):
            for claim in claims:
                await state.settle(lease, claim.hint.key, claim.hint.generation, base_of(claim.hint.key))
            settled += len(claims)
    return settled


async def timed(step: Callable[[], Awaitable[object]]) -> float:
    """Seconds of one step."""
    started = time.perf_counter()
    await step()
    return time.perf_counter() - started


async def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        client, server = await connect(RedisSettings(directory=Path(folder)))
        assert server is not None
        state = RedisState(client, "bench", shards=64, clock=SystemClock())
        await state.open()
        leases = [lease for shard in range(64) if (lease := await state.acquire(shard, owner="bench", ttl_seconds=3600))]
        empty = int((await client.info("memory"))["used_memory"])
        done = rest_bytes = 0
        for size in SIZES:
            count = size - done
            marking = await timed(lambda start=done, count=count: _mark(state, start, count))  # type: ignore[misc]
            dirty_bytes = int((await client.info("memory"))["used_memory"]) - empty - rest_bytes
            cycling = await timed(lambda: settle_all(state, leases))
            used = int((await client.info("memory"))["used_memory"]) - empty
            done, rest_bytes = size, used
            print(f"{size} keys: {used / size:.1f} bytes of Redis memory a key at rest")
            print(f"  {count} of them dirty: {dirty_bytes / count:.1f} bytes a key on top")
            print(f"  mark {count / marking:.0f}/s in batches of {BATCH}")
            print(f"  claim and settle one by one: {count / cycling:.0f} keys/s")
        floor = await timed(lambda: _floor(client))
        echoes = await timed(lambda: _echoes(state))
        print(f"echoes dropped: {20_000 / echoes:.0f}/s; plain pipelined HGET of as many fields: {20_000 / floor:.0f}/s")
        await state.close()
        await server.stop()


async def _mark(state: RedisState, start: int, count: int) -> None:
    for at in range(start, start + count, BATCH):
        await state.mark(changes(at, min(BATCH, start + count - at)))


async def _echoes(state: RedisState) -> None:
    at = Stamp(1_700_000_000_000_000, 1, StampOrigin.EVENT)
    for start in range(0, 20_000, BATCH):
        keys = [key_of(number) for number in range(start, start + BATCH)]
        marked = await state.mark([Change(key, Side.BLOB, Source.EVENT_GRID, etag=base_of(key).blob_etag, at=at) for key in keys])
        assert marked.echoes == BATCH


async def _floor(client: object) -> None:
    for start in range(0, 20_000, BATCH):
        pipe = client.pipeline(transaction=False)  # type: ignore[attr-defined]
        for number in range(start, start + BATCH):
            pipe.hget(f"floor:{number % 64}", key_of(number))
        await pipe.execute()


if __name__ == "__main__":
    asyncio.run(main())
