"""Large objects both ways: processor time a GiB of the engine's transfer, beside the floor of the hashes that verify it.

python bench/copy_large.py [--profile]
"""

from __future__ import annotations

import asyncio
import cProfile
import hashlib
import pstats
import sys
import tempfile
import time
from pathlib import Path

from federation.model import Metadata
from federation.ports import ObjectStore
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.vast_s3 import VastS3Store
from federation.sync.budget import ByteBudget
from federation.sync.original import Original
from federation.sync.transfer import Target, Transfer, TransferLimits
from fedplane.localstack.info import StackInfo, StackOptions
from fedplane.localstack.stack import LocalStack

MIB = 1024**2
SIZE = 64 * MIB
COUNT = 4


def floor_seconds(data: bytes) -> float:
    """Processor time of hashing one object: MD5 of the whole, MD5 of its parts, and over plain HTTP SHA-256 for the signature."""
    begun = time.process_time()
    for algorithm in (hashlib.md5, hashlib.md5, hashlib.sha256):
        algorithm(data)
    return time.process_time() - begun


async def copy(source: ObjectStore, target: ObjectStore, prefix: str) -> tuple[float, float]:
    """Wall and processor seconds of all copies, two at a time."""
    transfer = Transfer(TransferLimits(8 * MIB, 8 * MIB, 4), ByteBudget(256 * MIB))
    lanes = asyncio.Semaphore(2)

    async def one(number: int) -> None:
        async with lanes:
            original = Original(source, f"large/{number}", await source.head(f"large/{number}"))
            await transfer.send_large(original, Target(target, f"{prefix}/{number}", Metadata(), None, None))

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one(number) for number in range(COUNT)))
    return time.perf_counter() - wall, time.process_time() - cpu


async def measure(info: StackInfo) -> None:
    """Both directions."""
    blob = AzureBlobStore(container=info.container, connection_string=info.connection_string(direct=True))
    vast = VastS3Store(
        endpoint=info.s3_direct_endpoint, bucket=info.bucket, access_key=info.access_key, secret_key=info.secret_key
    )
    data = bytes(range(256)) * (SIZE // 256)
    for store in (blob, vast):
        for number in range(COUNT):
            await store.put(f"large/{number}", data, Metadata(), stamp=None, expected_etag=None)
    gib = COUNT * SIZE / 1024**3
    floor = floor_seconds(data) * COUNT / gib
    for name, source, target in (("blob to vast", blob, vast), ("vast to blob", vast, blob)):
        wall, cpu = await copy(source, target, "copied")
        print(f"{name}: {COUNT * SIZE / MIB / wall:.0f} MiB/s, {cpu / gib:.2f} CPU s a GiB; hashes alone {floor:.2f}")
    await blob.close()
    await vast.close()


async def main() -> None:
    """Print the figures, and with ``--profile`` where the time goes in the event loop's thread."""
    with tempfile.TemporaryDirectory() as folder:
        async with LocalStack(StackOptions(state_dir=Path(folder) / "stack")) as stack:
            if "--profile" not in sys.argv:
                await measure(stack.info)
                return
            with cProfile.Profile() as profile:
                await measure(stack.info)
    pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    asyncio.run(main())
