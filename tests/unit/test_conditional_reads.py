"""A reading that named the version it wants, from servers that do not know the condition."""

from __future__ import annotations

import asyncio

import pytest

from federation.errors import NotPresent, Reobserve
from federation.model import Side
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.base import HttpStore
from federation.stores.vast_s3 import VastS3Store

OLD, NEW = "0" * 32, "1" * 32


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The new version's first byte, whatever is asked for."""
    await reader.readuntil(b"\r\n\r\n")
    lines = ["HTTP/1.1 206 Partial Content", "Content-Length: 1", "Content-Range: bytes 0-0/9", f'ETag: "{NEW}"']
    lines += ["x-amz-version-id: current", "x-ms-version-id: current"]
    lines += ["Last-Modified: Fri, 21 Nov 2025 10:00:00 GMT", "Connection: close", "", "b"]
    writer.write("\r\n".join(lines).encode())
    await writer.drain()
    writer.close()


def store_of(side: Side, endpoint: str) -> HttpStore:
    """Without rights, which nobody checks."""
    if side is Side.BLOB:
        return AzureBlobStore(container="c", connection_string=f"BlobEndpoint={endpoint}/a;AccountName=a;AccountKey=a2V5")
    return VastS3Store(endpoint=endpoint, bucket="b", access_key="key", secret_key="secret")


@pytest.mark.parametrize("side", list(Side))
async def test_another_version_than_the_one_named_is_refused_by_us_if_not_by_the_server(side: Side) -> None:
    """Else the ranges of two versions would become one object that nobody wrote (rule 1)."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    store = store_of(side, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with server:
            with pytest.raises(Reobserve):
                await store.open("k", if_match=OLD, length=1)
            reader = await store.open("k", if_match=NEW, length=1)
            assert await reader.read() == b"b"
            await reader.close()
    finally:
        await store.close()


@pytest.mark.parametrize("side", list(Side))
async def test_another_old_version_than_the_one_named_is_not_there(side: Side) -> None:
    """The current one would pass for the loser of a conflict."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    store = store_of(side, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with server:
            with pytest.raises(NotPresent):
                await store.open_version("k", "old", length=1)
            reader = await store.open_version("k", "current", length=1)
            assert await reader.read() == b"b"
    finally:
        await store.close()
