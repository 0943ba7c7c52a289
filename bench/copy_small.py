"""Small objects Blob -> VAST: the engine's own path beside the two SDKs doing the same, on one local stack in one run.

python bench/copy_small.py
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from azure.storage.blob import ContainerClient
from botocore.config import Config

from federation.model import Metadata
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.vast_s3 import VastS3Store
from fedplane.localstack.info import StackInfo, StackOptions
from fedplane.localstack.stack import LocalStack

COUNT = 1_000
LANES = 16
BODY = bytes(4096)


async def by_engine(info: StackInfo) -> None:
    """GET with conditions known, conditional PUT: the stores the engine uses."""
    blob = AzureBlobStore(container=info.container, connection_string=info.connection_string(direct=True))
    vast = VastS3Store(
        endpoint=info.s3_direct_endpoint, bucket=info.bucket, access_key=info.access_key, secret_key=info.secret_key
    )
    lanes = asyncio.Semaphore(LANES)

    async def one(number: int) -> None:
        async with lanes:
            reader = await blob.open(f"bench/{number}")
            data = await reader.read()
            await vast.put(f"engine/{number}", data, Metadata(), stamp=None, expected_etag=None)

    await asyncio.gather(*(one(number) for number in range(COUNT)))
    await blob.close()
    await vast.close()


def by_sdks(info: StackInfo) -> None:
    """The same by azure-storage-blob and boto3 in threads."""
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"}, max_pool_connections=LANES)
    s3 = boto3.client(
        "s3",
        endpoint_url=info.s3_direct_endpoint,
        aws_access_key_id=info.access_key,
        aws_secret_access_key=info.secret_key,
        region_name="us-east-1",
        config=config,
    )
    with ContainerClient.from_connection_string(info.connection_string(direct=True), info.container) as container:

        def one(number: int) -> None:
            data = container.download_blob(f"bench/{number}").readall()
            s3.put_object(Bucket=info.bucket, Key=f"sdk/{number}", Body=data, IfNoneMatch="*")

        with ThreadPoolExecutor(LANES) as pool:
            list(pool.map(one, range(COUNT)))
    s3.close()


async def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        async with LocalStack(StackOptions(state_dir=Path(folder) / "stack")) as stack:
            info = stack.info
            text = info.connection_string(direct=True)
            with ContainerClient.from_connection_string(text, info.container) as container, ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda number: container.upload_blob(f"bench/{number}", BODY), range(COUNT)))
            figures = {}
            for name in ("engine", "sdks"):
                wall, cpu = time.perf_counter(), time.process_time()
                if name == "engine":
                    await by_engine(info)
                else:
                    await asyncio.to_thread(by_sdks, info)
                figures[name] = (time.perf_counter() - wall, time.process_time() - cpu)
    for name, (wall, cpu) in figures.items():
        print(f"{name}: {COUNT / wall:.0f} objects/s, {1000 * cpu / COUNT:.2f} ms of our CPU an object")
    print(f"ratio of CPU, SDKs to engine: {figures['sdks'][1] / figures['engine'][1]:.1f}")


if __name__ == "__main__":
    asyncio.run(main())
