"""State in Redis: bytes a key, and what a mark, an echo and a whole cycle cost beside Redis' own floor.

python bench/state.py [--keys 1000000] [--server /path/to/redis-server]

``--keys``: at how many keys the bytes are told last. ``--server``: another server than the one that comes with the package.
Of the objects one in ten was uploaded in parts and one in ten written over NFS, whose VAST ETags are no content hashes.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from federation.clock import SystemClock
from federation.model import Base, Change, Side, Source, Stamp, StampOrigin
from federation.progress import Claim, Lease
from federation.settings import RedisSettings
from federation.state import embedded
from federation.state.redis_state import RedisState

SMALL, BATCH = 200, 1_000
ONCE = 20_000
FAR_US = 2**52
CONCURRENCY, CLAIMED = 32, 16
"""As a worker with default settings claims and settles."""


def key_of(number: int) -> str:
    """A name of everyday length."""
    return f"department/project-{number % 97:02d}/run-{number // 1000:04d}/part-{number:08d}.parquet"


def changes(start: int, count: int) -> list[Change]:
    """News of *count* keys."""
    at = Stamp(1_700_000_000_000_000, 1, StampOrigin.EVENT)
    return [
        Change(key_of(number), Side.BLOB, Source.EVENT_GRID, etag=f"0x8DD{number:013X}", at=at)
        for number in range(start, start + count)
    ]


def base_of(key: str) -> Base:
    """An agreed record as a copy leaves it."""
    md5 = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
    kind = int(md5[-4:], 16) % 10
    vast = f"{md5[::-1]}-{1 + int(md5[:2], 16)}" if kind == 0 else "48ed760a74" + md5[10:] if kind == 1 else md5
    return Base(
        blob_etag=f"0x8DD{int(md5[:13], 16):013X}",
        vast_etag=vast,
        md5=md5,
        metadata_digest=bytes.fromhex(md5[:16]),
        written=Stamp(1_700_000_000_123_456, 1, StampOrigin.EVENT),
        size_bytes=int(md5[:7], 16),
        vast_as_of_us=1_700_000_001_000_000,
    )


async def settle_all(state: RedisState, leases: list[Lease]) -> int:
    """Claim and settle what is dirty as a worker does: some keys of a shard at a time, each settled by a task of its own."""
    free = asyncio.Semaphore(CONCURRENCY)
    settled = 0

    async def work(lease: Lease, claim: Claim) -> None:
        nonlocal settled
        settled += await state.settle(lease, claim.hint.key, claim.hint.generation, base_of(claim.hint.key))
        free.release()

    async with asyncio.TaskGroup() as group:
        for lease in leases:
            while claims := await state.claim(lease, limit=CLAIMED, now_us=FAR_US):
                for claim in claims:
                    await free.acquire()
                    group.create_task(work(lease, claim))
    return settled


async def timed(step: Callable[[], Awaitable[object]]) -> float:
    """Seconds of one step."""
    started = time.perf_counter()
    await step()
    return time.perf_counter() - started


@asynccontextmanager
async def server(binary: str) -> AsyncIterator[Any]:
    """A client of a server of our own."""
    if binary:
        embedded.server_binary = lambda: Path(binary)
    with tempfile.TemporaryDirectory() as folder:
        client, started = await embedded.connect(RedisSettings(directory=Path(folder)))
        assert started is not None
        print(f"Redis {(await client.info('server'))['redis_version']}")
        yield client
        await client.aclose()
        await started.stop()


async def used_bytes(client: Any) -> int:  # noqa: ANN401 - a redis client
    """Memory of the server's data."""
    told: dict[str, Any] = await client.info("memory")
    return int(told["used_memory"])


async def fill(state: RedisState, leases: list[Lease], start: int, end: int) -> None:
    """Records of keys that nobody marked."""
    for at in range(start, end, BATCH):
        names = [key_of(number) for number in range(at, min(at + BATCH, end))]
        await asyncio.gather(*(state.settle(leases[state.shard_of(name)], name, 0, base_of(name)) for name in names))


async def main(keys: int, binary: str) -> None:
    """Print the figures."""
    async with server(binary) as client:
        state = RedisState(client, "bench", shards=64, clock=SystemClock())
        await state.open()
        leases = [lease for shard in range(64) if (lease := await state.acquire(shard, owner="bench", ttl_seconds=36_000))]
        empty = await used_bytes(client)
        await speeds(state, leases, client)
        done = 4 * ONCE
        for size in (100_000, keys):
            await fill(state, leases, done, size)
            done = max(done, size)
            print(f"{size} keys: {(await used_bytes(client) - empty) / done:.1f} bytes of Redis memory a key at rest")
        await state.close()


async def speeds(state: RedisState, leases: list[Lease], client: Any) -> None:  # noqa: ANN401 - a redis client
    """Each figure of some keys, beside the floor of the same run."""
    for number, batch in enumerate((SMALL, BATCH, SMALL, BATCH)):
        start, cpu = number * ONCE, time.process_time()
        before = await used_bytes(client)
        marking = await timed(lambda start=start, batch=batch: _mark(state, start, batch))  # type: ignore[misc]
        spent, dirty = time.process_time() - cpu, await used_bytes(client) - before
        cpu = time.process_time()
        cycling = await timed(lambda: settle_all(state, leases))
        print(
            f"mark {ONCE / marking:,.0f}/s in batches of {batch} ({spent / ONCE * 1e6:.1f} us of our CPU a key); "
            f"claim and settle {ONCE / cycling:,.0f} keys/s ({(time.process_time() - cpu) / ONCE * 1e6:.1f} us); "
            f"{dirty / ONCE:.0f} bytes a dirty key"
        )
    floor = await timed(lambda: _floor(client))
    echoes = await timed(lambda: _echoes(state))
    print(f"echoes dropped: {ONCE / echoes:,.0f}/s; plain pipelined HGET of as many fields: {ONCE / floor:,.0f}/s")


async def _mark(state: RedisState, start: int, batch: int) -> None:
    for at in range(start, start + ONCE, batch):
        await state.mark(changes(at, batch))


async def _echoes(state: RedisState) -> None:
    at = Stamp(1_700_000_000_000_000, 1, StampOrigin.EVENT)
    for start in range(0, ONCE, BATCH):
        keys = [key_of(number) for number in range(start, start + BATCH)]
        marked = await state.mark([Change(key, Side.BLOB, Source.EVENT_GRID, etag=base_of(key).blob_etag, at=at) for key in keys])
        assert marked.echoes == BATCH


async def _floor(client: Any) -> None:  # noqa: ANN401 - a redis client
    for start in range(0, ONCE, BATCH):
        pipe = client.pipeline(transaction=False)
        for number in range(start, start + BATCH):
            pipe.hget(f"floor:{number % 64}", key_of(number))
        await pipe.execute()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--server", default=os.environ.get("FEDPLANE_REDIS_SERVER", ""))
    given = parser.parse_args()
    asyncio.run(main(given.keys, given.server))
