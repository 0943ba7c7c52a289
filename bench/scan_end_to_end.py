"""A whole scan over the local servers as a user starts it, and what bounds it: beside it each listing and the look-ups alone.

python bench/scan_end_to_end.py [keys] [--s3 moto]     200,000 take some minutes to be written first

The S3 server is versitygw where ``make full-stack`` installed it, its objects files: moto goes through all keys for each page.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from federation.clock import SystemClock
from federation.model import Base, ListEntry, Metadata, Side
from federation.ports import ObjectStore
from federation.settings import RedisSettings
from federation.state.embedded import connect
from federation.state.redis_state import RedisState
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.vast_s3 import VastS3Store
from fedplane.localstack.info import TOOLS_DIR, StackInfo, StackOptions
from fedplane.localstack.stack import LocalStack
from reconciler.comparison import BATCH

LANES = 16
SHARDS = 64
TELLING_SECONDS = 0.1
POLL_SECONDS = 0.05
SERVERS = ("azurite-blob", "s3", "redis", "proxies")


def stores_of(info: StackInfo) -> dict[Side, ObjectStore]:
    """Both sides, past the proxies."""
    return {
        Side.BLOB: AzureBlobStore(container=info.container, connection_string=info.connection_string(direct=True)),
        Side.VAST: VastS3Store(
            endpoint=info.s3_direct_endpoint, bucket=info.bucket, access_key=info.access_key, secret_key=info.secret_key
        ),
    }


def key_of(number: int) -> str:
    """In folders of a thousand."""
    return f"dir-{number // 1000:05d}/file-{number:09d}.bin"


def fill_as_files(bucket: Path, keys: int) -> None:
    """Small objects, written as over NFS: much sooner done than by as many requests."""
    for number in range(keys):
        file = bucket / key_of(number)
        if number % 1000 == 0:
            file.parent.mkdir()
        file.write_bytes(b"%d" % number)


async def fill(store: ObjectStore, keys: int) -> None:
    """Small objects."""
    numbers = iter(range(keys))

    async def lane() -> None:
        for number in numbers:
            key = key_of(number)
            await store.put(key, b"%d" % number, Metadata(), stamp=None, expected_etag=None)

    await asyncio.gather(*(lane() for _ in range(LANES)))


async def batches(store: ObjectStore) -> AsyncIterator[list[ListEntry]]:
    """A listing in the scanner's pieces, in one pass."""
    store.ordered = True
    batch: list[ListEntry] = []
    async for entry in store.list():
        batch.append(entry)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


async def agree(stores: Mapping[Side, ObjectStore], state: RedisState) -> list[str]:
    """Record as agreed on what both sides list; the keys."""
    blob = [entry async for batch in batches(stores[Side.BLOB]) for entry in batch]
    vast = [entry async for batch in batches(stores[Side.VAST]) for entry in batch]
    leases = [await state.acquire(shard, owner="bench", ttl_seconds=3600) for shard in range(SHARDS)]
    later_us = SystemClock().now_us() + 3_600_000_000

    async def one(here: ListEntry, there: ListEntry) -> None:
        lease = leases[state.shard_of(here.key)]
        assert lease is not None
        assert here.key == there.key
        base = Base(here.etag, there.etag, here.md5, bytes(8), here.modified, here.size_bytes, vast_as_of_us=later_us)
        await state.settle(lease, here.key, 0, base)

    for at in range(0, len(blob), BATCH):
        pairs = zip(blob[at : at + BATCH], vast[at : at + BATCH], strict=True)
        await asyncio.gather(*(one(here, there) for here, there in pairs))
    for lease in leases:
        assert lease is not None
        await state.release(lease)
    return [entry.key for entry in blob]


class Servers:
    """Processor time of the stack's servers, and requests at its proxies."""

    def __init__(self, info: StackInfo) -> None:
        self._info = info

    def cpu_seconds(self) -> dict[str, float]:
        """So far, by server."""
        return {name: _cpu_seconds(pid) for name, pid in self._info.pids.items() if name in SERVERS}

    def control(self, path: str, method: str = "GET") -> Any:  # noqa: ANN401 - JSON
        """Ask the proxies."""
        request = urllib.request.Request(f"{self._info.control_url}{path}", method=method)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return json.load(answer)

    def requests(self) -> str:
        """Since the last reset, by side and operation."""
        told = self.control("/stats")
        rows = [(side, row["operation"], row["count"]) for side in ("blob", "vast") for row in told[side]["requests"]]
        return ", ".join(f"{count} {side} {operation}" for side, operation, count in rows if "probe" not in operation)

    async def timed(self, name: str, keys: int, step: Callable[[], Awaitable[None]]) -> None:
        """Print how fast a step was, and who worked for it."""
        before, started, own = self.cpu_seconds(), time.perf_counter(), time.process_time()
        await step()
        wall, own = time.perf_counter() - started, time.process_time() - own
        self.tell(name, keys, wall, own, before)

    def tell(self, name: str, keys: int, wall: float, own: float, before: Mapping[str, float]) -> None:
        """One line."""
        spent = {
            server: now - before[server] for server, now in self.cpu_seconds().items() if now - before[server] >= TELLING_SECONDS
        }
        told = ", ".join(f"{server} {seconds:.1f}" for server, seconds in spent.items())
        print(f"{name}: {keys / wall:,.0f} keys/s ({wall:.1f} s); CPU seconds: ours {own:.1f}, {told}", flush=True)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def scan(servers: Servers, info: StackInfo, keys: int, name: str, *, range_rows: int) -> None:
    """``fedplane reconcile`` through the proxies, as a process of its own."""
    environment = {**os.environ, **info.environment(), "FEDERATION__RECONCILE__RANGE_ROWS": str(range_rows)}
    config = Path(info.state_dir) / "federation.toml"
    command = [sys.executable, "-m", "fedplane.cli", "reconcile", "--json", "--config", str(config)]
    servers.control("/stats/reset", "POST")
    before, started = servers.cpu_seconds(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, subprocess.Popen(command, env=environment, stdout=out) as process:  # noqa: S603 - our own
        peak_kib, own = 0, 0.0
        while process.poll() is None:
            with contextlib.suppress(OSError, ValueError):  # it may end meanwhile
                peak_kib, own = max(peak_kib, _peak_kib(process.pid)), _cpu_seconds(process.pid)
            time.sleep(POLL_SECONDS)
        out.seek(0)
        report = json.loads(out.read().splitlines()[-1])["report"]
    assert report["complete"], report["error"]
    assert report["in_step"] == keys, report
    seconds = (report["finished_us"] - report["started_us"]) / 1e6
    servers.tell(f"{name} ({report['ranges']})", keys, seconds, own, before)
    whole = time.perf_counter() - started
    print(f"    the process lived {whole:.1f} s; its peak RSS {peak_kib / 1024:.0f} MiB; requests: {servers.requests()}")


async def measure(info: StackInfo, keys: int, state: RedisState) -> None:
    """Write, agree, each part alone, then the scans."""
    servers, stores = Servers(info), stores_of(info)
    for side, store in stores.items():
        if side is Side.VAST and info.s3_posix_dir:
            await asyncio.to_thread(fill_as_files, Path(info.s3_posix_dir) / info.bucket, keys)
        else:
            await servers.timed(f"written on {side}", keys, partial(fill, store, keys))
    names = await agree(stores, state)

    async def listed(side: Side) -> None:
        async for _ in batches(stores[side]):
            pass

    async def looked_up() -> None:
        for at in range(0, keys, BATCH):
            await state.bases(names[at : at + BATCH])

    for side in Side:
        await servers.timed(f"listing {side} alone, one pass", keys, partial(listed, side))
    await servers.timed("base look-ups alone", keys, looked_up)
    for store in stores.values():
        await store.close()
    for name in ("scan, ranges, nothing known of the order", "scan, ranges, as cut by the one before"):
        await asyncio.to_thread(scan, servers, info, keys, name, range_rows=max(1_000, keys // 8))


async def main(keys: int, s3: Literal["moto", "versitygw"]) -> None:
    """Have the servers and measure."""
    with tempfile.TemporaryDirectory() as home:
        async with LocalStack(StackOptions(s3=s3, state_dir=Path(home) / "stack", blobs_in_memory=True)) as stack:
            client, _ = await connect(RedisSettings(url=stack.info.redis_url))
            state = RedisState(client, "demo", shards=SHARDS, clock=SystemClock())
            try:
                await state.open()
                print(f"{keys} keys; S3 server: {s3}", flush=True)
                await measure(stack.info, keys, state)
            finally:
                await state.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("keys", nargs="?", type=int, default=20_000)
    installed = (TOOLS_DIR / "bin" / "versitygw").is_file()
    parser.add_argument("--s3", choices=["moto", "versitygw"], default="versitygw" if installed else "moto")
    given = parser.parse_args()
    asyncio.run(main(given.keys, given.s3))
