"""The HTTP lane takes every answer that a service may give."""

from __future__ import annotations

import asyncio

import pytest

from federation.errors import RetryLater
from federation.model import Side
from federation.stores.lane import HttpLane


@pytest.mark.parametrize("metadata", [{"n": "v" * 8191}, {f"n{number:04d}": "" for number in range(1638)}], ids=["one", "many"])
async def test_an_object_with_all_metadata_azure_takes_can_be_read(metadata: dict[str, str]) -> None:
    """8 KiB of user metadata in one value, or in very many entries."""
    lines = "".join(f"x-ms-meta-{name}: {value}\r\n" for name, value in metadata.items())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n{lines}\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    lane = HttpLane(Side.BLOB)
    try:
        async with server:
            port = server.sockets[0].getsockname()[1]
            found = await lane.call("HEAD", f"http://127.0.0.1:{port}/", {})
    finally:
        await lane.close()
    assert {name: found.headers[f"x-ms-meta-{name}"] for name in metadata} == metadata


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_no_request_is_repeated_unseen(method: str) -> None:
    """A kept connection that breaks in the second request: it was sent once, and the caller is told."""
    sent = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        sent.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    lane = HttpLane(Side.BLOB)
    try:
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            await lane.call("HEAD", url, {})
            with pytest.raises(RetryLater, match="connection failed") as raised:
                await lane.call(method, url, {"If-None-Match": "*"}, b"" if method == "PUT" else None)
    finally:
        await lane.close()
    assert raised.value.reason == "unreachable"
    assert [head.split()[0].decode() for head in sent] == ["HEAD", method]
