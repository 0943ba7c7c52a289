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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from federation.clock import SystemClock
from federation.model import Base, Change, Side, Source, Stamp, StampOrigin
from federation.progress import Claim, Lease
from federation.settings import RedisSettings
from federation.state import embedded
from federation.state.redis_state import RedisState

BATCH = 1_000
BATCHES = (200, BATCH, 5_000)
ROUNDS = 3
"""Of each figure the best is told: other work on the machine only makes slower."""
ONCE = 20_000
FAR_US = 2**52
CYCLES = {"one worker with default settings": (2, 32, 8, 2), "four that claim, 256 keys at work, 100 a claim": (4, 256, 100, 0)}
"""Who claim at a time, keys at work at a time, keys of a claim, and how many of these are the newest."""


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


async def settle_all(state: RedisState, leases: list[Lease], bases: Mapping[str, Base], how: str) -> None:
    """Claim and settle what is dirty as a worker does: some keys of a shard at a time, each settled by a task of its own."""
    claimers, at_work, limit, newest = CYCLES[how]
    free = asyncio.Semaphore(at_work)

    async def work(lease: Lease, claim: Claim) -> None:
        await state.settle(lease, claim.hint.key, claim.hint.generation, bases[claim.hint.key])
        free.release()

    async def empty(shards: Sequence[Lease]) -> None:
        for lease in shards:
            while claims := await state.claim(lease, limit=limit, now_us=FAR_US, newest=newest):
                for claim in claims:
                    await free.acquire()
                    group.create_task(work(lease, claim))

    async with asyncio.TaskGroup() as group:
        for first in range(claimers):
            group.create_task(empty(leases[first::claimers]))


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
        done = await speeds(state, leases, client)
        await fill(state, leases, done, keys)
        done = max(done, keys)
        print(f"{done} keys: {(await used_bytes(client) - empty) / done:.1f} bytes of Redis memory a key at rest")
        await state.close()


@dataclass(frozen=True)
class Spent:
    """What *keys* of a step cost: seconds, and of our and Redis' processor time."""

    seconds: float
    ours: float
    redis: float

    def text(self) -> str:
        """By key."""
        ours, redis = self.ours / ONCE * 1e6, self.redis / ONCE * 1e6
        return f"{ONCE / self.seconds:,.0f} keys/s (CPU a key: ours {ours:.1f} us, Redis {redis:.1f} us)"


async def spent(client: Any, step: Callable[[], Awaitable[object]]) -> Spent:  # noqa: ANN401 - a redis client
    """Measure one step."""
    redis, ours = await _redis_cpu(client), time.process_time()
    seconds = await timed(step)
    ours = time.process_time() - ours
    return Spent(seconds, ours, await _redis_cpu(client) - redis)


async def _redis_cpu(client: Any) -> float:  # noqa: ANN401 - a redis client
    told = await client.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


async def speeds(state: RedisState, leases: list[Lease], client: Any) -> int:  # noqa: ANN401 - a redis client
    """Each figure of some keys, beside the floor of the same run. How many keys there are now."""
    marks: dict[int, list[Spent]] = {}
    cycles: dict[str, list[Spent]] = {}
    dirty = start = 0
    for batch, how in product(BATCHES * ROUNDS, CYCLES):
        given = [changes(at, batch) for at in range(start, start + ONCE, batch)]
        bases = {change.key: base_of(change.key) for some in given for change in some}
        before = await used_bytes(client)
        marks.setdefault(batch, []).append(await spent(client, partial(_mark, state, given)))
        dirty = await used_bytes(client) - before
        cycles.setdefault(how, []).append(await spent(client, partial(settle_all, state, leases, bases, how)))
        start += ONCE
    for batch, found in marks.items():
        print(f"mark in batches of {batch}: {_best(found).text()}")
    for how, found in cycles.items():
        print(f"claim and settle, {how}: {_best(found).text()}")
    print(f"{dirty / ONCE:.0f} bytes a dirty key")
    echoes = _best([await spent(client, partial(_echoes, state, _agreed())) for _ in range(ROUNDS)])
    print(f"echoes dropped: {echoes.text()}")
    for name, floor in (("plain pipelined HGET of as many fields", _gets), ("bare script, 200 keys a call, no logic", _bare)):
        print(f"floor, {name}: {_best([await spent(client, partial(floor, client)) for _ in range(ROUNDS)]).text()}")
    await client.delete(*_BARE_KEYS)
    return start


def _best(found: Sequence[Spent]) -> Spent:
    return min(found, key=lambda one: one.seconds)


async def _mark(state: RedisState, given: Sequence[Sequence[Change]]) -> None:
    for some in given:
        await state.mark(some)


def _agreed() -> list[list[Change]]:
    """News of keys that say what is agreed on already."""
    at = Stamp(1_700_000_000_000_000, 1, StampOrigin.EVENT)
    keys = [[key_of(number) for number in range(start, start + BATCH)] for start in range(0, ONCE, BATCH)]
    return [[Change(key, Side.BLOB, Source.EVENT_GRID, etag=base_of(key).blob_etag, at=at) for key in some] for some in keys]


async def _echoes(state: RedisState, given: Sequence[Sequence[Change]]) -> None:
    for some in given:
        assert (await state.mark(some)).echoes == len(some)


async def _gets(client: Any) -> None:  # noqa: ANN401 - a redis client
    for start in range(0, ONCE, BATCH):
        pipe = client.pipeline(transaction=False)
        for number in range(start, start + BATCH):
            pipe.hget(f"floor:{number % 64}", key_of(number))
        await pipe.execute()


_BARE_KEYS = ("bare:due", "bare:hint")
_BARE = """
for n = 2, #ARGV do
  redis.call("ZADD", KEYS[1], ARGV[1], ARGV[n])
  redis.call("HSET", KEYS[2], ARGV[n], ARGV[1])
end
"""


async def _bare(client: Any) -> None:  # noqa: ANN401 - a redis client
    await client.delete(*_BARE_KEYS)
    for start in range(0, ONCE, 200):
        await client.eval(_BARE, 2, *_BARE_KEYS, start, *map(key_of, range(start, start + 200)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--server", default=os.environ.get("FEDPLANE_REDIS_SERVER", ""))
    given = parser.parse_args()
    asyncio.run(main(given.keys, given.server))
