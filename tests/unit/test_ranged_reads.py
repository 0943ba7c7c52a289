"""A reading of a range, from servers and proxies that answer with something else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import nullcontext
from functools import partial
from typing import cast

import pytest

from federation.backoff import backoff_seconds
from federation.errors import RetryLater
from federation.model import Metadata, Present, Side, Stamp, Version
from federation.ports import ObjectStore
from federation.stores import wire
from federation.stores.memory import MemoryReader, MemoryStore
from federation.sync import reading
from federation.sync.budget import ByteBudget
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import Gate
from federation.sync.reading import PIECE_BYTES, Extent, read_all, read_checked
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
        (200, {"Content-Range": "bytes 4-5/10", "Content-Length": "2"}, (4, 2), True),  # as rclone's server has it
        (200, {"Content-Range": "bytes 4-5/10", "Content-Length": "10"}, (4, 2), False),
        (200, {"Content-Range": "bytes 4-5/10"}, (4, 2), False),
        (200, {"Content-Range": "bytes 0-5/10", "Content-Length": "6"}, (4, 2), False),
        (200, {"Content-Length": "10"}, (4, None), False),
        (200, {"Content-Length": "0"}, (0, None), True),
        (204, {"Content-Length": "0"}, (0, None), False),
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
        with pytest.raises(RetryLater, match=r"more|another length"):
            await read_all(extent, MemoryReader(_of(present, told), bytes(size + 4)))
    transfer = Transfer(TransferLimits(1_000_000, 1_000_000, 1), ByteBudget(10_000_000))
    with pytest.raises(RetryLater, match="more"):
        await transfer.hash_object(store, "k", present)


def _of(present: Present, size_bytes: int) -> Present:
    return Present(Version(present.version.etag, size_bytes, Stamp(0), present.version.etag_kind))


class _Cut(MemoryStore):
    """Cuts, or ends, every answer after a few bytes."""

    def __init__(self, give: int, *, cleanly: bool) -> None:
        super().__init__(Side.VAST, clock=HandClock())
        self.give = give
        self.cleanly = cleanly

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        """As in the twin, as far as it goes."""
        reader = await super().open(key, if_match=if_match, start=start, length=length)
        return _CutReader(reader.present, reader._data, 0 if self.cleanly and start else self.give, cleanly=self.cleanly)


class _CutReader(MemoryReader):
    def __init__(self, present: Present, data: bytes, give: int, *, cleanly: bool) -> None:
        super().__init__(present, data)
        self.give = give
        self.cleanly = cleanly

    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        """Some bytes, and no more."""
        for start in range(0, self.give, size_bytes):
            yield self._data[start : min(start + size_bytes, self.give)]
        if not self.cleanly:
            raise RetryLater("cut", reason="cut_short")

    async def read(self) -> bytes:
        """All that ``chunks`` gives."""
        return b"".join([chunk async for chunk in self.chunks(PIECE_BYTES)])


@pytest.mark.parametrize(("give", "cleanly", "asked"), [(0, True, 1), (1, True, 2), (0, False, 6), (1024, False, 6)])
async def test_a_stream_that_gets_nowhere_is_given_up(
    give: int, cleanly: bool, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a few requests with longer and longer pauses: neither empty answers nor drops keep memory and a claim for ever."""
    pauses = _pauses(monkeypatch)
    store = _Cut(give, cleanly=cleanly)
    await store.put("k", bytes(4 * PIECE_BYTES), Metadata(), stamp=None, expected_etag=None)
    present = await store.head("k")
    with pytest.raises(RetryLater) as caught:
        await read_all(Extent(store, "k", present.version.etag, 0, 4 * PIECE_BYTES))
    assert caught.value.reason == "cut_short"
    assert sum(call == "open" for call, _ in store.calls) == asked
    assert pauses[:1] in ([], [0.0])
    assert pauses[1:] == sorted(pauses[1:])
    assert all(pauses[1:])


async def test_a_stream_that_gets_on_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece between two cuts is progress, however many cuts there are, and costs no pause."""
    pauses = _pauses(monkeypatch)
    store = _Cut(PIECE_BYTES, cleanly=False)
    await store.put("k", bytes(9 * PIECE_BYTES), Metadata(), stamp=None, expected_etag=None)
    present = await store.head("k")
    assert await read_all(Extent(store, "k", present.version.etag, 0, 9 * PIECE_BYTES)) == bytes(9 * PIECE_BYTES)
    assert pauses == [0.0] * 8


def _pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Told and not made; without their chance."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("federation.sync.reading.asyncio.sleep", pause)
    monkeypatch.setattr(reading, "backoff_seconds", partial(backoff_seconds, jitter=0.0))
    return pauses


def _gated(store: MemoryStore) -> PacedStore:
    return PacedStore(store, Gate(Side.VAST, HandClock()))


async def _extents(paced: PacedStore, *keys: str) -> list[Extent]:
    for key in keys:
        await paced.put(key, bytes(PIECE_BYTES), Metadata(), stamp=None, expected_etag=None)
    etags = [(await paced.head(key)).version.etag for key in keys]
    return [Extent(paced, key, etag, 0, PIECE_BYTES) for key, etag in zip(keys, etags, strict=True)]


@pytest.mark.parametrize("between", [False, True], ids=["alone", "heads_between"])
async def test_bodies_that_fail_close_the_gate_though_every_answer_begins_well(
    between: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A side whose bodies never come whole is left alone, and asked again by one; a body that comes opens the gate."""
    _pauses(monkeypatch)
    store = _Cut(0, cleanly=False)
    clock = HandClock()
    paced = PacedStore(store, Gate(Side.VAST, clock))
    extents = await _extents(paced, "a", "b", "c")
    for extent, asked in zip(extents, (6, 6, 1), strict=True):
        assert not paced.gate.tripped
        store.calls.clear()
        with pytest.raises(RetryLater) as caught:
            await read_all(extent)
        assert caught.value.reason == "cut_short"  # what it met, not that nobody may ask any more
        assert sum(call == "open" for call, _ in store.calls) == asked
        if between and extent is not extents[-1]:
            await paced.head(extent.key)
    for trips in (1, 2):
        assert (paced.gate.tripped, paced.gate.trips) == (True, trips)
        for reason in ("paced", "cut_short"):  # closed; then as the probe, which closes it for longer
            with pytest.raises(RetryLater) as caught:
                await read_all(extents[0])
            assert caught.value.reason == reason
            clock.seconds += 0 if reason == "cut_short" else paced.gate.closed_for_seconds()

    clock.seconds += paced.gate.closed_for_seconds()
    store.give, store.cleanly = PIECE_BYTES, True
    assert await read_all(extents[0]) == bytes(PIECE_BYTES)
    assert (paced.gate.tripped, paced.gate.failing_since_us) == (False, None)
    store.give, store.cleanly = 0, False
    with pytest.raises(RetryLater):
        await read_all(extents[1])
    assert not paced.gate.tripped


@pytest.mark.parametrize("checked", [False, True], ids=["pieces", "checked"])
async def test_one_object_that_is_cut_for_ever_closes_no_gate(checked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is tried; and it is told what it met, also where the gate is closed meanwhile for another reason."""
    _pauses(monkeypatch)
    store = _Cut(0, cleanly=False)
    paced = _gated(store)
    [extent] = await _extents(paced, "a")
    for _ in range(5):
        with pytest.raises(RetryLater) as caught:
            await (read_checked(extent, PIECE_BYTES) if checked else read_all(extent))
        assert caught.value.reason == "cut_short"
    assert (paced.gate.tripped, paced.gate.failures) == (False, 1)

    async def closed(seconds: float) -> None:
        paced.gate.close_until(paced.gate.clock.monotonic_seconds() + 60 + seconds)

    monkeypatch.setattr("federation.sync.reading.asyncio.sleep", closed)
    with pytest.raises(RetryLater) as caught:
        await (read_checked(extent, PIECE_BYTES) if checked else read_all(extent))
    assert caught.value.reason == "cut_short"


@pytest.mark.parametrize("side", list(Side))
async def test_ranges_answered_otherwise_close_no_gate(side: Side) -> None:
    """They are whole answers: what does not fit is that object's matter."""
    server = await asyncio.start_server(_answers(["HTTP/1.1 200 OK"], WHOLE), "127.0.0.1", 0)
    store = store_of(side, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    paced = PacedStore(cast("ObjectStore", store), Gate(side, HandClock()))
    paced.gate.close_until(0.0)
    try:
        async with server:
            for _ in range(4):
                with pytest.raises(RetryLater, match="another range"):
                    await paced.open("k", start=4, length=2)
    finally:
        await store.close()
    assert (paced.gate.tripped, paced.gate.failures) == (False, 0)


async def test_a_body_that_nobody_wanted_is_no_fault() -> None:
    """Dropped after its head, it opens a gate that waited for a word."""
    store = MemoryStore(Side.VAST, clock=HandClock())
    await store.put("k", b"content", Metadata(), stamp=None, expected_etag=None)
    paced = _gated(store)
    paced.gate.close_until(0.0)
    reader = await paced.open("k")
    assert paced.gate.tripped
    await reader.close()
    assert not paced.gate.tripped


@pytest.mark.parametrize("told_by", ["own_calls", "another_process"])
async def test_a_body_that_nobody_wanted_is_no_word_on_what_came_after_its_head(told_by: str) -> None:
    """A side that went away meanwhile stays known as away."""
    store = MemoryStore(Side.VAST, clock=HandClock())
    await store.put("k", b"content", Metadata(), stamp=None, expected_etag=None)
    paced = _gated(store)
    reader = await paced.open("k")
    if told_by == "own_calls":
        for _ in range(3):
            paced.gate.failed(RetryLater("away", reason="unreachable"))
    else:
        paced.gate.close_until(60.0)
    for _ in range(2):
        await reader.close()
    assert paced.gate.tripped
    assert (paced.gate.failing_since_us is not None) is (told_by == "own_calls")


@pytest.mark.parametrize(
    ("side", "told", "whole", "right"),
    [
        (Side.BLOB, "RIGHT", None, True),
        (Side.BLOB, "RIGHT", "other", True),
        (Side.BLOB, "WRONG", None, False),
        (Side.BLOB, "WRONG", "other", False),
        (Side.BLOB, "WRONG", "WRONG", True),
        (Side.BLOB, None, "WRONG", True),
        (Side.VAST, "WRONG", None, True),
    ],
    ids=["right", "right_beside_the_whole", "wrong", "wrong_beside_the_whole", "only_the_whole", "none", "no_promise_on_s3"],
)
async def test_a_range_is_held_to_its_own_checksum(side: Side, told: str | None, whole: str | None, right: bool) -> None:
    """What Blob says of just these bytes counts; what is stored as the whole content's, or said on S3, is not of them."""
    values = {"RIGHT": base64.b64encode(hashlib.md5(b"45", usedforsecurity=False).digest()).decode(), "WRONG": "A" * 22 + "=="}
    lines = ["HTTP/1.1 206 Partial Content", "Content-Range: bytes 4-5/10"]
    lines += [f"Content-MD5: {values[told]}"] if told else []
    lines += [f"x-ms-blob-content-md5: {values.get(whole, whole)}"] if whole else []
    server = await asyncio.start_server(_answers(lines, b"45"), "127.0.0.1", 0)
    store = store_of(side, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with server:
            reader = await store.open("k", start=4, length=2)
            with nullcontext() if right else pytest.raises(RetryLater) as caught:
                assert await reader.read() == b"45"
    finally:
        await store.close()
    assert right or (caught is not None and caught.value.reason == "content_mismatch")


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("length", [None, 4 * 1024**2, 4 * 1024**2 + 1])
async def test_blob_is_asked_for_the_checksum_of_ranges_up_to_4_mib(side: Side, length: int | None) -> None:
    """Of more the service refuses it; S3 knows nothing of it."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    store = store_of(side, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with server:
            with pytest.raises(RetryLater):
                await store.open("k", length=length)
    finally:
        await store.close()
    assert (b"x-ms-range-get-content-md5: true" in heads[0]) is (side is Side.BLOB and length == store.checked_bytes)
    assert (store.sealed, store.checked_bytes) == ((True, 4 * 1024**2) if side is Side.BLOB else (False, 0))
