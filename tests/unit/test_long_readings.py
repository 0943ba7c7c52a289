"""What is only read, to be hashed, is too large to begin anew for every fault of hours."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import cast

import pytest

from federation.errors import RetryLater
from federation.model import Side
from federation.stores.memory import MemoryReader, MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.original import Original
from federation.sync.reading import PIECE_BYTES
from federation.sync.transfer import Transfer, TransferLimits
from tests.unit.test_transfer import _bulk, _content

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
