"""What is only read, to be hashed, is too large to begin anew for every fault of hours."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

import pytest

from federation.errors import RetryLater
from federation.model import Side
from federation.rules.decision import Action
from federation.stores.memory import MemoryReader, MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.original import Original
from federation.sync.reading import PIECE_BYTES
from federation.sync.transfer import Transfer, TransferLimits
from tests.unit.test_transfer import _bulk, _content
from tests.unit.world import World

SIZE = 3 * PIECE_BYTES


class _Cut(MemoryReader):
    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        yield self._data[:size_bytes]
        raise RetryLater("the connection was cut", reason="cut_short")


async def _hashed(original: Original, faults: list[RetryLater], *, small_bytes: int = 64) -> tuple[str, list[int]]:
    """The hash, where the first GET breaks off after a piece and the next ones fail so; and where each GET began."""
    store, begun = cast("MemoryStore", original.store), list[int]()
    real = store.open

    async def opened(key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        begun.append(start)
        if len(begun) > 1 and faults:
            raise faults.pop(0)
        reader = await real(key, if_match=if_match, start=start, length=length)
        return _Cut(reader.present, reader._data) if len(begun) == 1 else reader

    store.open = opened  # type: ignore[method-assign]
    transfer = Transfer(TransferLimits(small_bytes, 32, 2), ByteBudget(1 << 24))
    try:
        return await transfer.hash_object(store, "k", original.present), begun
    finally:
        assert transfer.budget.free == 1 << 24


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses take no time, and are noted."""
    pauses, real = list[float](), asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return pauses


@pytest.mark.parametrize("reason", ["throttled", "paced", "unreachable", "server_error"])
async def test_a_large_object_is_hashed_on_from_where_it_was_cut(slept: list[float], reason: str) -> None:
    """A connection breaks and the side asks for rest: as long as that is waited for, and no byte is asked for twice."""
    md5, begun = await _hashed(await _bulk(SIZE), [RetryLater("later", reason=reason, side=Side.BLOB, after_seconds=7)] * 3)
    assert md5 == hashlib.md5(_content(SIZE), usedforsecurity=False).hexdigest()
    assert begun == [0, *[PIECE_BYTES] * 4]
    assert slept.count(7) >= 2


@pytest.mark.parametrize(
    ("reason", "times", "small_bytes", "gets"),
    [("throttled", 30, 64, 7), ("content_mismatch", 1, 64, 2), ("throttled", 1, SIZE, 2)],
    ids=["stays away", "damaged", "small"],
)
async def test_what_does_not_pass_or_costs_little_is_raised(reason: str, times: int, small_bytes: int, gets: int) -> None:
    """Its lane is for others then; the key comes back in its turn."""
    with pytest.raises(RetryLater, match="later"):
        await _hashed(await _bulk(SIZE), faults := [RetryLater("later", reason=reason)] * times, small_bytes=small_bytes)
    assert times - len(faults) == gets - 1


async def test_nothing_is_waited_for_before_anything_was_read() -> None:
    """A side that is away: no hours are lost, and whoever asks, a verification or the queue, waits for it in its own way."""
    original = await _bulk(SIZE)
    store = cast("MemoryStore", original.store)
    for _ in range(3):
        store.fail_next("open", RetryLater("later", reason="paced", side=Side.BLOB, after_seconds=7))
    transfer = Transfer(TransferLimits(64, 32, 2), ByteBudget(1 << 24))
    with pytest.raises(RetryLater, match="later"):
        await transfer.hash_object(store, "k", original.present)
    assert store.calls.count(("open", "k")) == 1
    assert await transfer.hash_object(store, "k", original.present, more_hashed=True)
    assert store.calls.count(("open", "k")) == 4


async def test_the_second_side_is_waited_for_when_the_first_was_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both large objects were there before us: a throttle between the two readings does not begin the first one anew."""
    world = World()
    blob, vast = world.raw[Side.BLOB], world.raw[Side.VAST]
    await world.write(Side.BLOB, "big", "b" * 200, told=False)
    vast.write_file("big", b"b" * 200)
    here = await blob.head("big")
    monkeypatch.setattr(blob, "_present", lambda _: replace(here, version=replace(here.version, md5=None)))
    world.later(3600)
    await world.look("big")
    vast.fail_next("open", RetryLater("later", reason="throttled", side=Side.VAST))
    [done] = await world.step()
    assert done.decision.action is Action.ADOPT
    assert blob.calls.count(("open", "big")) == 1


async def test_a_look_after_the_reading_is_asked_again() -> None:
    """A file is looked at once more when it was read: a throttle of that HEAD does not cost the hours before it."""
    original = await _bulk(SIZE, on=Side.VAST)
    store = cast("MemoryStore", original.store)
    store.write_file("k", _content(SIZE))
    store.fail_next("head", RetryLater("later", reason="throttled", side=Side.VAST))
    present = store._present(store.objects["k"])
    transfer = Transfer(TransferLimits(64, 32, 2), ByteBudget(1 << 24))
    assert await transfer.hash_object(store, "k", present) == hashlib.md5(_content(SIZE), usedforsecurity=False).hexdigest()
    assert store.calls.count(("open", "k")) == 1


async def _dripping(original: Original, sizes: list[int]) -> list[int]:
    """Hash it, where each GET brings so many bytes, the last ones the last number, and is cut; how much each asked for."""
    store, asked = cast("MemoryStore", original.store), list[int]()
    real = store.open

    class _Drop(MemoryReader):
        async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
            yield self._data[: min(size_bytes, sizes[min(len(asked), len(sizes)) - 1])]
            raise RetryLater("the connection was cut", reason="cut_short")

    async def opened(key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        asked.append(SIZE if length is None else length)
        assert len(asked) < 100, "it never ends"
        reader = await real(key, if_match=if_match, start=start, length=length)
        return _Drop(reader.present, reader._data)

    store.open = opened  # type: ignore[method-assign]
    await Transfer(TransferLimits(64, 32, 2), ByteBudget(1 << 24)).hash_object(store, "k", original.present)
    return asked


async def test_what_comes_in_drops_ends() -> None:
    """Each GET brings a byte and is cut: it would keep its place in the lane for years."""
    with pytest.raises(RetryLater, match="cut"):
        await _dripping(await _bulk(SIZE), [1])


async def test_nothing_is_asked_for_when_all_is_there() -> None:
    """The last cut that is put up with comes after the last byte: a GET of no bytes is none (``ObjectStore.open``)."""
    size = PIECE_BYTES // 2
    asked = await _dripping(await _bulk(size), [size - 5, 1])
    assert asked == [SIZE, 5, 4, 3, 2, 1]
