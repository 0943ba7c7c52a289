"""Sample data for a running local stack, written as a user's tools would: through the proxies, with the services' own SDKs."""

from __future__ import annotations

import contextlib
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from azure.core.exceptions import AzureError
from azure.storage.blob import ContainerClient, ContentSettings
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from fedplane.localstack.info import StackInfo

_WRITERS = 4


@dataclass(frozen=True)
class User:
    """Somebody with an Azure SDK on one side and an S3 SDK on the other."""

    container: ContainerClient
    s3: Any
    bucket: str

    def put_blob(self, key: str, data: bytes, content_type: str = "text/x-python") -> None:
        """Write on the Blob side."""
        settings = ContentSettings(content_type=content_type)
        self.container.upload_blob(key, data, overwrite=True, content_settings=settings)

    def put_s3(self, key: str, data: bytes, content_type: str = "text/x-python") -> None:
        """Write on the S3 side."""
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=content_type)

    def read_blob(self, key: str) -> bytes | None:
        """Read on the Blob side; None when it cannot be read (not there yet)."""
        try:
            return bytes(self.container.download_blob(key).readall())
        except AzureError:
            return None

    def read_s3(self, key: str) -> bytes | None:
        """Read on the S3 side; None when it cannot be read (not there yet)."""
        try:
            return bytes(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        except (ClientError, BotoCoreError):
            return None


@contextmanager
def user_of(info: StackInfo) -> Iterator[User]:
    """A user of the stack's proxies."""
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"}, max_pool_connections=_WRITERS + 2)
    s3 = boto3.client(
        "s3",
        endpoint_url=info.s3_endpoint,
        aws_access_key_id=info.access_key,
        aws_secret_access_key=info.secret_key,
        region_name="us-east-1",
        config=config,
    )
    with ContainerClient.from_connection_string(info.connection_string(), info.container) as container, contextlib.closing(s3):
        yield User(container, s3, info.bucket)


def library_files(count: int) -> list[tuple[str, bytes]]:
    """Some of Python's own library sources: (relative name, content)."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: list[tuple[str, bytes]] = []
    for file in sorted(root.rglob("*.py")):
        if "site-packages" in file.parts or "__pycache__" in file.parts:
            continue
        found.append((file.relative_to(root).as_posix(), file.read_bytes()))
        if len(found) == count:
            break
    return found


def seed(info: StackInfo, *, files: int = 60, both: int = 5) -> dict[str, int]:
    """Half of *files* on each side, and *both* more keys on both with different content. Returns counts by place."""
    sources = library_files(files + both)
    half = files // 2
    with user_of(info) as user, ThreadPoolExecutor(_WRITERS) as pool:
        jobs = [pool.submit(user.put_blob, f"from-azure/{name}", data) for name, data in sources[:half]]
        jobs += [pool.submit(user.put_s3, f"from-vast/{name}", data) for name, data in sources[half:files]]
        for name, data in sources[files:]:
            jobs.append(pool.submit(user.put_s3, f"both/{name}", b"# as VAST's users left it\n" + data))
            jobs.append(pool.submit(user.put_blob, f"both/{name}", b"# as Azure's users left it\n" + data))
        for job in jobs:
            job.result()
    return {"blob": half, "vast": files - half, "both": len(sources) - files}
