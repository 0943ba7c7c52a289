"""The HTTP lane takes every answer that a service may give."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from typing import ClassVar, cast

import aiohttp
import pytest
from aiohttp.streams import EMPTY_PAYLOAD

from federation.errors import RetryLater
from federation.model import ETagKind, Present, Side, Stamp, Version
from federation.stores import lane as lanes
from federation.stores.lane import HttpLane, HttpReader

LARGE = bytes(8 * 1024**2)
"""More than the buffers of both ends hold."""


@pytest.fixture
async def lane() -> AsyncIterator[HttpLane]:
    """Closed at the end."""
    made = HttpLane(Side.VAST)
    yield made
    await made.close()


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A peer that is there, answers nothing and takes nothing, and little patience with it."""
    monkeypatch.setattr(lanes, "READ_SECONDS", 0.1)
    monkeypatch.setattr(lanes, "_LET_GO_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def url_of(listening: socket.socket) -> str:
    """Where *listening* listens."""
    return f"http://127.0.0.1:{listening.getsockname()[1]}/"


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


@pytest.mark.parametrize("body", [None, b"small", LARGE], ids=["none", "small", "large"])
async def test_a_peer_that_stops_reading_is_a_timeout(lane: HttpLane, deaf: socket.socket, body: bytes | None) -> None:
    """A body that nobody takes is given up like an answer that nobody gives: the key, its memory and its turn come free."""
    async with asyncio.timeout(30):
        with pytest.raises(RetryLater) as raised:
            await lane.call("PUT", url_of(deaf), {}, body)
    assert (raised.value.reason, raised.value.side) == ("timeout", Side.VAST)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel ends such connections on Linux only")
async def test_a_connection_that_was_given_up_does_not_stay(
    lane: HttpLane, deaf: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that were never taken hold no connection open."""
    made: list[socket.socket] = []
    make = lanes._socket

    def kept(address: aiohttp.AddrInfoType) -> socket.socket:
        made.append(make(address))
        return made[-1]

    monkeypatch.setattr(lanes, "_socket", kept)
    async with asyncio.timeout(30):
        with pytest.raises(RetryLater):
            await lane.call("PUT", url_of(deaf), {}, LARGE)
        [connection] = made
        while connection.fileno() >= 0:
            await asyncio.sleep(0.01)
    assert connection.fileno() < 0


async def test_patience_is_renewed_by_every_piece_that_is_taken() -> None:
    """A slow peer that goes on reading is waited for, and after the last piece for its answer too."""
    async with asyncio.timeout(None) as patience:
        started = asyncio.get_running_loop().time()
        seen = [patience.when() or 0.0 async for _ in lanes._Slices(LARGE, patience)]
        last = patience.when() or 0.0
    assert len(set(seen)) == len(seen) > 1
    assert started + lanes.READ_SECONDS <= seen[0]
    assert sorted(seen) == seen
    assert last >= seen[-1] + lanes.READ_SECONDS


async def test_an_answer_that_comes_before_the_body_went_is_read(lane: HttpLane) -> None:
    """A refusal by the head alone: what is still sent after it disturbs nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\n")
        await reader.readexactly(len(LARGE))
        writer.write(b"busy")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, asyncio.timeout(30):
        found = await lane.call("PUT", url_of(server.sockets[0]), {}, LARGE)
    assert (found.status, found.body) == (503, b"busy")


async def _drops(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, block: bytes) -> None:
    """*head*, then *block* until the other end is gone."""
    await reader.readuntil(b"\r\n\r\n")
    with suppress(ConnectionError):
        writer.write(head + b"\r\n\r\n")
        while not writer.is_closing():
            writer.write(block)
            await writer.drain()
            await asyncio.sleep(0)
    writer.close()


@pytest.mark.parametrize("status", [b"200 OK", b"503 Busy"])
async def test_an_answer_without_end_that_is_read_whole_is_a_timeout(
    lane: HttpLane, monkeypatch: pytest.MonkeyPatch, status: bytes
) -> None:
    """A list, a commit or a refusal that comes in drops keeps its place for a while only."""
    monkeypatch.setattr(lanes, "_WHOLE_SECONDS", 0.2)
    monkeypatch.setattr(lanes, "_REFUSAL_BYTES", 1 << 40)
    serve = partial(_drops, head=b"HTTP/1.1 " + status, block=b"b")
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, asyncio.timeout(30):
        with pytest.raises(RetryLater) as raised:
            await lane.call("GET", url_of(server.sockets[0]), {})
    assert raised.value.reason == "timeout"


async def test_of_a_refusal_only_its_front_is_read(lane: HttpLane) -> None:
    """One without end fills no memory, and its connection is not used again."""
    serve = partial(_drops, head=b"HTTP/1.1 503 Busy", block=b"<Code>SlowDown</Code>" * 100)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, asyncio.timeout(30):
        found = await lane.call("GET", url_of(server.sockets[0]), {})
    assert found.body.startswith(b"<Code>SlowDown</Code>")
    assert lanes._REFUSAL_BYTES <= len(found.body) <= lanes._REFUSAL_BYTES + 2 * lanes._BUFFER_BYTES


class _Drip:
    """An answer of one byte a time, each after *seconds*."""

    def __init__(self, seconds: float, size_bytes: int, at_once: int = 1) -> None:
        self.content = self
        self.headers = {"Content-Length": str(size_bytes)}
        self.now = 0.0
        self._seconds = seconds
        self._sizes = [at_once] * (size_bytes // at_once)

    @staticmethod
    def at_eof() -> bool:
        """As aiohttp's."""
        return False

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """As aiohttp's."""
        for size in self._sizes:
            self.now += self._seconds
            yield bytes(size), True


async def test_an_answer_in_drops_is_a_timeout(lane: HttpLane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps no memory and no claim for ever; what is slow and steady, or slowed by us, is read."""
    loop = asyncio.get_running_loop()
    present = Present(Version("e", 0, Stamp(0), ETagKind.OPAQUE))

    async def read(drip: _Drip, ours: float = 0.0) -> int:
        monkeypatch.setattr(loop, "time", lambda: drip.now)
        got = 0
        async for block in HttpReader(lane, cast("aiohttp.ClientResponse", drip), present).chunks(1 << 20):
            got += len(block)
            drip.now += ours
        return got

    drip = _Drip(lanes.READ_SECONDS - 1, 1_000)
    with pytest.raises(RetryLater) as raised:
        await read(drip)
    assert (raised.value.reason, raised.value.side) == ("timeout", Side.VAST)
    assert drip.now < 3 * lanes.READ_SECONDS
    assert await read(_Drip(1.0, 1 << 20, lanes.LEAST_BYTES_PER_SECOND)) == 1 << 20
    assert await read(_Drip(0.0, 1_000), ours=lanes.READ_SECONDS) == 1_000
    monkeypatch.undo()


class _Empty:
    """An answer with the body that aiohttp shares among all empty ones; watched, since it never lets a timer run."""

    headers: ClassVar = {"Content-Length": "0"}

    def __init__(self) -> None:
        self.content = self
        self.at_eof = EMPTY_PAYLOAD.at_eof

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """As aiohttp's, but not for ever."""
        chunks = EMPTY_PAYLOAD.iter_chunks()
        for _ in range(3):
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            yield chunk
        raise AssertionError


async def test_every_empty_body_ends(lane: HttpLane) -> None:
    """Not only the first of a process: the others would hold up the event loop for ever."""
    present = Present(Version("e", 0, Stamp(0), ETagKind.OPAQUE))
    for _ in range(3):
        assert await HttpReader(lane, cast("aiohttp.ClientResponse", _Empty()), present).read() == b""
