"""Are both sides equal? Uses only the services' SDKs and shares no code with the engine.

    python tests/acceptance/verify.py [.fedplane/stack/stack.json] [--names-only]

Reads every object on both sides past the event proxies and compares bytes (MD5 while streaming), content headers and user
metadata. The plane's own origin stamp (`fedplane_origin`, `fedplane-origin`) and everything under `.federation/` are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContainerClient
from botocore.config import Config
from botocore.exceptions import ClientError

OWN_PREFIX = ".federation/"
STAMPS = {"fedplane_origin", "fedplane-origin"}
READERS = 8


@dataclass(frozen=True)
class Held:
    """What one side holds under one key."""

    size_bytes: int
    md5: str
    headers: tuple[tuple[str, str], ...]
    metadata: tuple[tuple[str, str], ...]


@dataclass
class Sides:
    """Both sides of a stack, read past the proxies so that the counters see only the engine and its users."""

    container: ContainerClient
    s3: Any
    bucket: str

    def close(self) -> None:
        """Release connections."""
        self.container.close()
        self.s3.close()


def open_sides(stack: dict[str, Any]) -> Sides:
    """Clients from the contents of ``stack.json``."""
    text = (
        f"DefaultEndpointsProtocol=http;AccountName={stack['account_name']};AccountKey={stack['account_key']};"
        f"BlobEndpoint={stack['blob_direct_endpoint']};"
    )
    options: dict[str, Any] = {"signature_version": "s3v4", "s3": {"addressing_style": "path"}}
    s3 = boto3.client(
        "s3",
        endpoint_url=stack["s3_direct_endpoint"],
        aws_access_key_id=stack["access_key"],
        aws_secret_access_key=stack["secret_key"],
        region_name="us-east-1",
        # A gateway over a file system keeps an old checksum when the file is overwritten: the bytes are what counts.
        config=Config(max_pool_connections=READERS + 2, response_checksum_validation="when_required", **options),
    )
    return Sides(ContainerClient.from_connection_string(text, stack["container"]), s3, stack["bucket"])


def names(sides: Sides) -> tuple[dict[str, tuple[int, str]], dict[str, tuple[int, str]]]:
    """Key -> (size, MD5 if the listing tells it) of both sides."""
    blob = {}
    for item in sides.container.list_blobs():
        md5 = item.content_settings.content_md5
        blob[item.name] = (int(item.size), bytes(md5).hex() if md5 else "")
    vast = {}
    for page in sides.s3.get_paginator("list_objects_v2").paginate(Bucket=sides.bucket):
        for found in page.get("Contents", []):
            etag = found.get("ETag", "").strip('"')  # a gateway over files lists its folders by name alone
            vast[found["Key"]] = (int(found.get("Size", 0)), "" if "-" in etag else etag)
    return _users(blob), _users(vast)


def _users(found: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    return {key: value for key, value in found.items() if not key.startswith(OWN_PREFIX)}


def differ_by_name(sides: Sides) -> list[str]:
    """A cheap comparison of both listings: keys, sizes, and MD5 where both listings have one."""
    blob, vast = names(sides)
    told = [f"{key}: only on blob" for key in sorted(blob.keys() - vast.keys())]
    told += [f"{key}: only on vast" for key in sorted(vast.keys() - blob.keys())]
    for key in sorted(blob.keys() & vast.keys()):
        (blob_size, blob_md5), (vast_size, vast_md5) = blob[key], vast[key]
        if blob_size != vast_size or (blob_md5 and vast_md5 and blob_md5 != vast_md5):
            told.append(f"{key}: other content")
    return told


def _md5(chunks: Iterable[bytes]) -> tuple[str, int]:
    digest, size = hashlib.md5(usedforsecurity=False), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def read_blob(sides: Sides, key: str) -> Held | None:
    """Read one object on the Blob side."""
    try:
        stream = sides.container.download_blob(key)
        md5, size = _md5(stream.chunks())
    except ResourceNotFoundError:
        return None
    content = stream.properties.content_settings
    headers = {
        "type": content.content_type,
        "encoding": content.content_encoding,
        "language": content.content_language,
        "disposition": content.content_disposition,
        "cache": content.cache_control,
    }
    return Held(size, md5, _present(headers), _user(stream.properties.metadata or {}))


def read_vast(sides: Sides, key: str) -> Held | None:
    """Read one object on the S3 side."""
    try:
        answer = sides.s3.get_object(Bucket=sides.bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise
    md5, size = _md5(answer["Body"].iter_chunks(1024 * 1024))
    headers = {
        "type": answer.get("ContentType"),
        "encoding": answer.get("ContentEncoding"),
        "language": answer.get("ContentLanguage"),
        "disposition": answer.get("ContentDisposition"),
        "cache": answer.get("CacheControl"),
    }
    return Held(size, md5, _present(headers), _user(answer.get("Metadata") or {}))


def _present(headers: dict[str, str | None]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in headers.items() if value))


def _user(metadata: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name.lower(), value) for name, value in metadata.items() if name.lower() not in STAMPS))


def differ(sides: Sides, read: Callable[[int], None] | None = None) -> list[str]:
    """Read every object on both sides and tell each difference; *read* is told how many keys were compared."""
    blob, vast = names(sides)
    keys = sorted(blob.keys() | vast.keys())

    def compare(key: str) -> str:
        here, there = read_blob(sides, key), read_vast(sides, key)
        return "" if here == there else f"{key}: blob {here} but vast {there}"

    with ThreadPoolExecutor(READERS) as pool:
        told = [difference for difference in pool.map(compare, keys) if difference]
    if read is not None:
        read(len(keys))
    return told


def main() -> int:
    """Compare and print; 1 when they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack", nargs="?", default=".fedplane/stack/stack.json", type=Path)
    parser.add_argument("--names-only", action="store_true", help="compare the listings only")
    given = parser.parse_args()
    sides = open_sides(json.loads(given.stack.read_text()))
    try:
        told = differ_by_name(sides) if given.names_only else differ(sides)
        count = len(names(sides)[0])
    finally:
        sides.close()
    for line in told[:50]:
        print(line)
    print(f"{count} keys on blob, {len(told)} differences")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
