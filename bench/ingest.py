"""What a change that is none costs: bytes of an event, parsed and marked, when its version is the agreed one or it came before.

python bench/ingest.py
Beside it the floor: the same bytes decoded as JSON and one pipelined HGET an event.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from federation import keys
from federation.clock import SystemClock
from federation.model import Base, Change, Side, Stamp
from federation.payloads import event_grid, vast
from federation.settings import RedisSettings
from federation.state.embedded import connect
from federation.state.redis_state import RedisState

EVENTS = 40_000
BATCH = 500
KEYS = 10_000
TIME = "2023-11-14T22:13:20.1234567Z"
MD5 = "0cc175b9c0f1b6a831c399e269772661"


def name_of(number: int) -> str:
    """A name of everyday length."""
    return f"department/project-{number % 97:02d}/run-{number // 1000:04d}/part-{number:08d}.parquet"


def grid_event(number: int) -> bytes:
    """A creation as Event Grid tells it; its ETag is the agreed one."""
    data = {
        "api": "PutBlockList",
        "clientRequestId": "6d79dbfb-0e37-4fc4-981f-442c9ca65760",
        "requestId": "831e1650-001e-001b-66ab-eeb76e000000",
        "eTag": f"0x8DD{number:012X}",
        "contentType": "application/octet-stream",
        "contentLength": 524288,
        "blobType": "BlockBlob",
        "url": f"https://account.blob.core.windows.net/data/{name_of(number)}",
        "sequencer": "00000000000004420000000000028963",
        "storageDiagnostics": {"batchId": "b68529f3-68cd-4744-baa4-3c0498ec19f0"},
    }
    event = {
        "topic": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/account",
        "subject": f"/blobServices/default/containers/data/blobs/{name_of(number)}",
        "eventType": "Microsoft.Storage.BlobCreated",
        "eventTime": TIME,
        "id": "831e1650-001e-001b-66ab-eeb76e069631",
        "data": data,
        "dataVersion": "",
        "metadataVersion": "1",
    }
    return json.dumps(event).encode()


def vast_record(number: int) -> bytes:
    """The same from VAST."""
    item = {"key": name_of(number), "size": 524288, "eTag": MD5}
    record = {"eventVersion": "2.1", "eventTime": TIME, "eventName": "s3:ObjectCreated:Put"}
    return json.dumps({"Records": [record | {"s3": {"bucket": {"name": "data"}, "object": item}}]}).encode()


def base_of(number: int) -> Base:
    """What both sides agreed on."""
    return Base(
        f"0x8DD{number:012X}", MD5, MD5, b"12345678", Stamp(1_700_000_000_000_000), 524288, vast_as_of_us=2_000_000_000_000_000
    )


def parsers() -> dict[str, tuple[Callable[[int], bytes], Callable[[bytes], Sequence[Change]]]]:
    """By source: how an event is written, and how it is read."""
    blob_policy, vast_policy = keys.policy_for(Side.BLOB), keys.policy_for(Side.VAST)
    blobs = event_grid.BlobScope("", "data", "", lambda name: keys.decode(name, blob_policy))
    records = vast.VastScope("data", "", "raw", lambda name: keys.decode(name, vast_policy))
    return {
        "event grid": (grid_event, lambda body: event_grid.parse(body, blobs).changes),
        "vast events": (vast_record, lambda body: vast.parse(body, records).changes),
    }


async def ingest(state: RedisState, bodies: Sequence[bytes], read: Callable[[bytes], Sequence[Change]]) -> int:
    """Parse and mark all; how many were echoes."""
    echoes = 0
    for start in range(0, len(bodies), BATCH):
        changes = [change for body in bodies[start : start + BATCH] for change in read(body)]
        echoes += (await state.mark(changes)).echoes
    return echoes


async def floor(client: Any, bodies: Sequence[bytes]) -> None:  # noqa: ANN401 - a redis client
    """Decode, and look one field up."""
    for start in range(0, len(bodies), BATCH):
        pipe = client.pipeline(transaction=False)
        for number, body in enumerate(bodies[start : start + BATCH]):
            msgspec.json.decode(body)
            pipe.hget(f"floor:{number % 64}", name_of(number))
        await pipe.execute()


async def measure(name: str, work: Any) -> Any:  # noqa: ANN401 - any coroutine
    """Print events a second, by the wall and by this process' CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = await work
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: {EVENTS / wall:,.0f}/s, {cpu / EVENTS * 1e6:.1f} us of CPU an event")
    return result


async def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        client, server = await connect(RedisSettings(directory=Path(folder)))
        assert server is not None
        state = RedisState(client, "bench", shards=64, clock=SystemClock())
        await state.open()
        leases = {one: await state.acquire(one, owner="bench", ttl_seconds=3600) for one in range(64)}
        for number in range(KEYS):
            lease = leases[state.shard_of(name_of(number))]
            assert lease is not None
            await state.settle(lease, name_of(number), 0, base_of(number))
        for source, (write, read) in parsers().items():
            bodies = [write(number % KEYS) for number in range(EVENTS)]
            echoes = await measure(f"{source}: echoes and duplicates", ingest(state, bodies, read))
            assert echoes == EVENTS, echoes
            await measure(f"{source}: floor", floor(client, bodies))
        await state.close()
        await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
