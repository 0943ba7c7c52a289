"""Moving the bytes of one object."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Self, cast

import pytest

from federation.errors import Reobserve, RetryLater
from federation.model import ETagKind, Metadata, Present, Side, Stamp, Version
from federation.stores.memory import MemoryReader, MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.original import Original, still_the_same
from federation.sync.reading import PIECE_BYTES, read_all
from federation.sync.transfer import Target, Transfer, TransferLimits


class _Clock:
    def now_us(self) -> int:
        return 1_700_000_000_000_000

    def monotonic_seconds(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing here waits {seconds} s")


def _present(size: int, etag: str = "e", kind: ETagKind = ETagKind.OPAQUE, md5: str | None = None) -> Present:
    return Present(Version(etag, size, Stamp(0), kind, md5))


def test_content_that_is_not_what_was_announced_is_never_passed_on() -> None:
    """Short, long or damaged answers are read again, however often they come alike: something on the way may damage them all."""
    transfer = Transfer(TransferLimits(64, 32, 2), ByteBudget(1 << 20))
    transfer.check_content(_present(3, md5="aa"), 3, "aa")
    transfer.check_content(_present(3), 3, "anything")
    for size, md5 in ((2, "aa"), (2, "aa"), (4, "aa"), (3, "bb"), (3, "bb"), (3, "bb")):
        with pytest.raises(RetryLater) as caught:
            transfer.check_content(_present(3, md5="aa"), size, md5)
        assert caught.value.reason == "content_mismatch"


async def _bulk(size: int, *, on: Side = Side.BLOB, md5: bool = True) -> Original:
    """An object of *size* bytes that tells every byte's place, on a side of its own."""
    store = MemoryStore(on, clock=_Clock())
    await store.put("k", _content(size), Metadata(), stamp=None, expected_etag=None)
    present = await store.head("k")
    return Original(store, "k", present if md5 else replace(present, version=replace(present.version, md5=None)))


def _content(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


def _target(store: MemoryStore, expected: str | None = None) -> Target:
    return Target(store, "k", Metadata(), None, expected)


def _of(calls: list[tuple[str, str]], name: str) -> int:
    return sum(call == name for call, _ in calls)


@pytest.mark.parametrize("size", [11, 19, 20, 21, 29, 30, 31, 95])
async def test_sizes_around_a_part_arrive_whole(size: int) -> None:
    """One byte less, as many and one more than whole parts: the same bytes, in as many parts as are needed and no more."""
    vast = MemoryStore(Side.VAST, clock=_Clock())
    vast.capabilities = replace(vast.capabilities, min_part_bytes=1)
    transfer = Transfer(TransferLimits(10, 10, 3), ByteBudget(64))
    copied = await transfer.send_large(await _bulk(size), _target(vast))

    assert vast.objects["k"].data == _content(size)
    assert copied.md5 == hashlib.md5(_content(size), usedforsecurity=False).hexdigest()
    assert _of(vast.calls, "put_part") == -(-size // 10)
    assert transfer.budget.free == 64


async def test_a_stream_that_is_cut_is_taken_up_by_range_where_it_ended() -> None:
    """No byte is asked for twice, the rest is asked for of the same version, and the content is whole."""
    original = await _bulk(3 * PIECE_BYTES)
    opened: list[tuple[str | None, int, int | None]] = []
    store = cast("MemoryStore", original.store)
    real = store.open

    async def cut_once(key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        opened.append((if_match, start, length))
        reader = await real(key, if_match=if_match, start=start, length=length)
        return _CutReader(reader.present, reader._data) if len(opened) == 1 else reader

    store.open = cut_once  # type: ignore[method-assign]
    data = await read_all(original.extent())

    assert data == _content(3 * PIECE_BYTES)
    etag = original.present.version.etag
    assert opened == [(etag, 0, 3 * PIECE_BYTES), (etag, PIECE_BYTES, 2 * PIECE_BYTES)]


class _CutReader(MemoryReader):
    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        yield self._data[:size_bytes]
        raise RetryLater("the connection was cut", reason="cut_short")


async def test_a_source_that_changes_midway_is_never_mixed() -> None:
    """The version is part of every ranged GET: another one ends the transfer, nothing is visible, no part stays."""
    original, vast = await _bulk(100), MemoryStore(Side.VAST, clock=_Clock())
    source = cast("MemoryStore", original.store)
    etag = original.present.version.etag

    async def rewrite(call: str, key: str) -> None:
        if call == "open" and _of(source.calls, "open") == 4 and source.objects[key].etag == etag:
            await source.put(key, b"other", Metadata(), stamp=None, expected_etag=etag)

    source._hook = rewrite
    transfer = Transfer(TransferLimits(10, 10, 2), ByteBudget(1 << 20))
    with pytest.raises(Reobserve):
        await transfer.send_large(original, _target(vast))
    assert (vast.objects, vast.uploads) == ({}, {})


async def test_damaged_bytes_are_never_committed() -> None:
    """A part damaged on its way to us: the whole content does not match, nothing is committed, no part is believed."""
    original, vast = await _bulk(100), MemoryStore(Side.VAST, clock=_Clock())
    source = cast("MemoryStore", original.store)
    real = source.open

    async def damaged(key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        reader = await real(key, if_match=if_match, start=start, length=length)
        return MemoryReader(reader.present, b"!" + reader._data[1:] if start == 50 else reader._data)

    source.open = damaged  # type: ignore[method-assign]
    transfer = Transfer(TransferLimits(10, 10, 2), ByteBudget(1 << 20))
    with pytest.raises(RetryLater) as caught:
        await transfer.send_large(original, _target(vast))
    assert caught.value.reason == "content_mismatch"
    assert (vast.objects, vast.uploads) == ({}, {})


async def test_a_destination_that_changed_meanwhile_is_not_overwritten() -> None:
    """The commit is conditional on what was decided from."""
    store = MemoryStore(Side.VAST, clock=_Clock())
    transfer = Transfer(TransferLimits(10, 10, 2), ByteBudget(1 << 30))
    await store.put("k", b"theirs", Metadata(), stamp=None, expected_etag=None)

    with pytest.raises(Reobserve):
        await transfer.send_large(await _bulk(20), _target(store))
    assert store.objects["k"].data == b"theirs"


async def test_a_failing_part_is_told_as_itself() -> None:
    """One part's fault comes out as that fault, not as a group."""
    store = MemoryStore(Side.VAST, clock=_Clock())
    transfer = Transfer(TransferLimits(10, 10, 2), ByteBudget(1 << 30))
    store.fail_next("put_part", RetryLater("503", reason="throttled", after_seconds=1))

    with pytest.raises(RetryLater, match="503"):
        await transfer.send_large(await _bulk(20), _target(store))
    assert transfer.budget.free == 1 << 30


class _Counted(bytes):
    """Bytes that were read and are still held."""

    alive = 0
    most = 0

    def __new__(cls, data: bytes) -> Self:
        """Counted until nobody holds them any more."""
        cls.alive += len(data)
        cls.most = max(cls.most, cls.alive)
        return super().__new__(cls, data)

    def __del__(self) -> None:
        """Nobody does."""
        _Counted.alive -= len(self)


class _CountedReader(MemoryReader):
    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        async for piece in super().chunks(size_bytes):
            yield _Counted(piece)


def _counted(original: Original) -> Original:
    """What is read of it is counted."""
    store = cast("MemoryStore", original.store)
    real = store.open

    async def opened(key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        reader = await real(key, if_match=if_match, start=start, length=length)
        return _CountedReader(reader.present, reader._data)

    store.open = opened  # type: ignore[method-assign]
    return original


async def test_the_memory_of_200_transfers_of_mixed_sizes_stays_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are under way, no more bytes that were read are alive at once than the budget holds; all arrive."""

    async def at_once(call: Callable[[bytes], None], data: bytes) -> None:
        call(data)  # a thread that is done holds its arguments until it has its turn again

    monkeypatch.setattr("federation.sync.transfer.asyncio.to_thread", at_once)

    async def others_turn(call: str, key: str) -> None:
        del call, key
        await asyncio.sleep(0)

    vast = MemoryStore(Side.VAST, clock=_Clock(), hook=others_turn)
    budget = ByteBudget(40)
    transfer = Transfer(TransferLimits(10, 10, 3), budget)
    _Counted.alive = _Counted.most = 0
    sizes = [11 + number * 37 % 90 for number in range(200)]

    async def one(number: int, size: int) -> None:
        target = Target(vast, f"k{number}", Metadata(), None, None)
        await transfer.send_large(_counted(await _bulk(size)), target)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number, size in enumerate(sizes):
            group.create_task(one(number, size))
    assert [len(vast.objects[f"k{number}"].data) for number in range(200)] == sizes
    assert 20 < _Counted.most <= 40
    assert (_Counted.alive, budget.free) == (0, 40)


async def test_a_file_that_changes_while_it_is_read_is_noticed() -> None:
    """A file-side version is looked at again after reading; an S3 version needs no second look."""
    store = MemoryStore(Side.VAST, clock=_Clock())
    store.write_file("f", b"old")
    seen = await store.head("f")
    await still_the_same(store, "f", seen)
    store.write_file("f", b"new")
    with pytest.raises(Reobserve):
        await still_the_same(store, "f", seen)

    await still_the_same(store, "gone", _present(3, kind=ETagKind.MD5))
