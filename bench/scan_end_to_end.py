"""A whole scan over the local servers, and what bounds it: each side's listing alone, the base look-ups alone, then all together.

python bench/scan_end_to_end.py [keys]     200,000 take some minutes to be written first
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from federation.clock import SystemClock
from federation.model import Base, ListEntry, Metadata, Side
from federation.ports import ObjectStore
from federation.settings import RedisSettings
from federation.state.embedded import connect
from federation.state.redis_state import RedisState
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.vast_s3 import VastS3Store
from fedplane.localstack.info import StackInfo, StackOptions
from fedplane.localstack.stack import LocalStack
from reconciler.comparison import BATCH
from reconciler.scan import Scanner, ScanOptions

LANES = 16
MONTH_US = 30 * 86_400_000_000
SHARDS = 64


def stores_of(info: StackInfo) -> dict[Side, ObjectStore]:
    """Both sides, past the proxies."""
    return {
        Side.BLOB: AzureBlobStore(container=info.container, connection_string=info.connection_string(direct=True)),
        Side.VAST: VastS3Store(
            endpoint=info.s3_direct_endpoint, bucket=info.bucket, access_key=info.access_key, secret_key=info.secret_key
        ),
    }


async def fill(store: ObjectStore, keys: int) -> None:
    """Small objects, in folders of a thousand."""
    numbers = iter(range(keys))

    async def lane() -> None:
        for number in numbers:
            key = f"dir-{number // 1000:05d}/file-{number:09d}.bin"
            await store.put(key, b"%d" % number, Metadata(), stamp=None, expected_etag=None)

    await asyncio.gather(*(lane() for _ in range(LANES)))


async def batches(store: ObjectStore) -> AsyncIterator[list[ListEntry]]:
    """A listing in the scanner's pieces."""
    batch: list[ListEntry] = []
    async for entry in store.list():
        batch.append(entry)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


async def agree(stores: dict[Side, ObjectStore], state: RedisState) -> list[str]:
    """Record as agreed on what both sides list; the keys."""
    blob = [entry async for entry in stores[Side.BLOB].list()]
    vast = [entry async for entry in stores[Side.VAST].list()]
    leases = [await state.acquire(shard, owner="bench", ttl_seconds=3600) for shard in range(SHARDS)]
    later_us = SystemClock().now_us() + 3_600_000_000

    async def one(here: ListEntry, there: ListEntry) -> None:
        lease = leases[state.shard_of(here.key)]
        assert lease is not None
        assert here.key == there.key
        base = Base(here.etag, there.etag, here.md5, bytes(8), here.modified, here.size_bytes, vast_as_of_us=later_us)
        await state.settle(lease, here.key, 0, base)

    for at in range(0, len(blob), LANES):
        pairs = zip(blob[at : at + LANES], vast[at : at + LANES], strict=True)
        await asyncio.gather(*(one(here, there) for here, there in pairs))
    return [entry.key for entry in blob]


async def timed(name: str, keys: int, step: Callable[[], Awaitable[object]]) -> None:
    """Print how fast a step was, and how much of it was this process's own work."""
    started, cpu = time.perf_counter(), time.process_time()
    await step()
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f"{name}: {keys / wall:,.0f} keys/s ({wall:.1f} s, {cpu:.1f} s of it our own processor time)", flush=True)


async def main(keys: int) -> None:
    """Fill, agree, measure."""
    with tempfile.TemporaryDirectory() as home:
        async with LocalStack(StackOptions(state_dir=Path(home) / "stack")) as stack:
            stores = stores_of(stack.info)
            client, server = await connect(RedisSettings(directory=Path(home) / "redis"))
            state = RedisState(client, "bench", shards=SHARDS, clock=SystemClock())
            await state.open()
            for side, store in stores.items():
                await timed(f"written on {side}", keys, lambda store=store: fill(store, keys))  # type: ignore[misc]
            names = await agree(stores, state)
            await measure(stores, state, names)
            for store in stores.values():
                await store.close()
            await state.close()
            if server is not None:
                await server.stop()


async def measure(stores: dict[Side, ObjectStore], state: RedisState, names: list[str]) -> None:
    """Each part alone, then the scan."""

    async def listed(side: Side) -> None:
        async for _ in batches(stores[side]):
            pass

    async def looked_up() -> None:
        for at in range(0, len(names), BATCH):
            await state.bases(names[at : at + BATCH])

    async def scanned() -> None:
        options = ScanOptions(range_rows=max(1_000, len(names) // 8))
        scanner = Scanner(stores, state, state, SystemClock(), quiet_us=0, tombstone_us=MONTH_US, options=options)
        report = await scanner.scan()
        assert report.complete, report.error
        assert report.in_step == len(names), report.text()

    for side in Side:
        await timed(f"listing {side} alone", len(names), lambda side=side: listed(side))  # type: ignore[misc]
    await timed("base look-ups alone", len(names), looked_up)
    await timed("the whole scan, one range", len(names), scanned)
    await timed("the whole scan, cut in ranges", len(names), scanned)
    print(f"peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB (holds all keys for this bench)")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 20_000))
