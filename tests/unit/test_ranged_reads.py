"""A reading of a range, from servers and proxies that answer with something else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from federation.errors import RetryLater
from federation.model import Metadata, Present, Side, Stamp, Version
from federation.stores import wire
from federation.stores.memory import MemoryReader, MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.reading import Extent, read_all
from federation.sync.transfer import Transfer, TransferLimits
from tests.unit.test_conditional_reads import store_of
from tests.unit.test_leases import HandClock

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]
WHOLE = b"0123456789"


@pytest.mark.parametrize(
    ("status", "headers", "asked", "right"),
    [
        (206, {"Content-Range": "bytes 4-5/10"}, (4, 2), True),
        (206, {"Content-Range": "bytes 4-9/10"}, (4, None), True),
        (206, {"Content-Range": "bytes 4-9/10"}, (4, 99), True),
        (206, {"Content-Range": "bytes 0-1/10"}, (4, 2), False),
        (206, {"Content-Range": "bytes 4-6/10"}, (4, 2), False),
        (206, {"Content-Range": "bytes 4-4/10"}, (4, 2), False),
        (206, {"Content-Range": "bytes 4-5/*"}, (4, 2), False),
        (206, {}, (4, 2), False),
        (200, {"Content-Length": "10"}, (0, None), True),
        (200, {"Content-Length": "10"}, (0, 10), True),
        (200, {"Content-Length": "10"}, (0, 9), False),
        (200, {}, (0, 9), False),
        (200, {"Content-Length": "10"}, (4, None), False),
    ],
)
def test_what_is_an_answer_to_a_range(status: int, headers: dict[str, str], asked: tuple[int, int | None], right: bool) -> None:
    """Just that range, up to the object's end; or everything, where everything was asked for."""
    assert wire.answers_range(status, headers, *asked) is right


def _answers(lines: list[str], body: bytes) -> Handler:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = [*lines, f"Content-Length: {len(body)}", 'ETag: "e"', "Last-Modified: Fri, 21 Nov 2025 10:00:00 GMT"]
        head += ["x-amz-version-id: v", "x-ms-version-id: v", "Connection: close", "", ""]
        writer.write("\r\n".join(head).encode() + body)
        await writer.drain()
        writer.close()

    return answer


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["HTTP/1.1 200 OK"], WHOLE),
        (["HTTP/1.1 206 Partial Content", "Content-Range: bytes 0-1/10"], WHOLE[:2]),
    ],
    ids=["everything", "another"],
)
async def test_another_range_than_asked_for_is_refused(side: Side, lines: list[str], body: bytes) -> None:
    """Else the first bytes of an object would be written again and again in place of its middle."""
    server = await asyncio.start_server(_answers(lines, body), "127.0.0.1", 0)
    store = store_of(side, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with server:
            for opening in (store.open("k", start=4, length=2), store.open_version("k", "v", start=4, length=2)):
                with pytest.raises(RetryLater) as caught:
                    await opening
                assert caught.value.reason == "bad_answer"
    finally:
        await store.close()


class _Everything(MemoryStore):
    """Answers every reading with more than there is."""

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        """As in the twin, and on and on."""
        reader = await super().open(key, if_match=if_match, start=start, length=length)
        return MemoryReader(reader.present, reader._data + b"more")


@pytest.mark.parametrize("size", [0, 4, 600_000])
async def test_more_than_was_asked_for_is_no_content(size: int) -> None:
    """Neither read nor hashed beyond its length, however it is read."""
    store = _Everything(Side.VAST, clock=HandClock())
    await store.put("k", bytes(size), Metadata(), stamp=None, expected_etag=None)
    present = await store.head("k")
    extent = Extent(store, "k", present.version.etag, 0, size)
    if size:
        with pytest.raises(RetryLater, match="more"):
            await read_all(extent)
    for told in (size, size + 4):
        with pytest.raises(RetryLater, match="more|another length"):
            await read_all(extent, MemoryReader(_of(present, told), bytes(size + 4)))
    transfer = Transfer(TransferLimits(1_000_000, 1_000_000, 1), ByteBudget(10_000_000))
    with pytest.raises(RetryLater, match="more"):
        await transfer.hash_object(store, "k", present)


def _of(present: Present, size_bytes: int) -> Present:
    return Present(Version(present.version.etag, size_bytes, Stamp(0), present.version.etag_kind))
