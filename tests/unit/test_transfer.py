"""Planning and moving the bytes of one object."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import Reobserve, RetryLater
from federation.model import ETagKind, Metadata, Present, Side, Stamp, Version
from federation.ports import Capabilities
from federation.stores.memory import MemoryReader, MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.transfer import Transfer, TransferLimits, part_size_bytes, still_the_same

_TIB = 1024**4
_MIB = 1024**2


class _Clock:
    def now_us(self) -> int:
        return 1_700_000_000_000_000

    def monotonic_seconds(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing here waits {seconds} s")


@given(st.integers(1, 5 * _TIB), st.sampled_from([1, 5 * _MIB, 8 * _MIB, 64 * _MIB]), st.sampled_from([1, 10_000, 50_000]))
def test_parts_always_fit_the_side(size: int, preferred: int, max_parts: int) -> None:
    """Any size up to 5 TiB fits into the parts a side allows, none smaller than it accepts."""
    part = part_size_bytes(size, preferred, Capabilities(max_parts=max_parts))

    assert part * max_parts >= size
    assert part >= max(preferred, Capabilities().min_part_bytes)
    assert part % _MIB == 0


def test_the_preferred_part_size_is_kept_where_it_fits() -> None:
    """Parts do not grow without need."""
    assert part_size_bytes(1024 * _MIB, 8 * _MIB, Capabilities()) == 8 * _MIB


def _present(size: int, etag: str = "e", kind: ETagKind = ETagKind.OPAQUE, md5: str | None = None) -> Present:
    return Present(Version(etag, size, Stamp(0), kind, md5))


def test_content_that_is_not_what_was_announced_is_never_passed_on() -> None:
    """Short, long or damaged answers are read again."""
    transfer = Transfer(TransferLimits(64, 32, 2), ByteBudget(1 << 20))
    transfer.check_content(_present(3, md5="aa"), 3, "aa")
    transfer.check_content(_present(3), 3, "anything")
    for size, md5 in ((2, "aa"), (2, "aa"), (4, "aa"), (3, "bb"), (3, "cc")):
        with pytest.raises(RetryLater):
            transfer.check_content(_present(3, md5="aa"), size, md5)


def test_the_same_other_content_read_twice_is_believed() -> None:
    """Then the ETag is wrong, not the reading; another version of it must be read twice again."""
    transfer = Transfer(TransferLimits(64, 32, 2), ByteBudget(1 << 20))
    with pytest.raises(RetryLater):
        transfer.check_content(_present(3, md5="aa"), 3, "bb")
    transfer.check_content(_present(3, md5="aa"), 3, "bb")
    with pytest.raises(RetryLater):
        transfer.check_content(_present(3, etag="f", md5="aa"), 3, "bb")


class _CutReader(MemoryReader):
    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        yield self._data[:size_bytes]
        raise RetryLater("the connection was cut", reason="unreachable")


async def test_a_cut_stream_leaves_nothing_behind() -> None:
    """A source that breaks midway: the upload is aborted, nothing becomes visible, the fault is told."""
    store = MemoryStore(Side.VAST, clock=_Clock())
    transfer = Transfer(TransferLimits(10, 10, 2), ByteBudget(1 << 30))
    data = b"x" * 3 * _MIB

    with pytest.raises(RetryLater, match="cut"):
        await transfer.send_large(
            _CutReader(_present(len(data)), data), store, "k", metadata=Metadata(), stamp=None, expected_etag=None
        )
    assert store.objects == {}


async def test_a_destination_that_changed_meanwhile_is_not_overwritten() -> None:
    """The commit is conditional on what was decided from."""
    store = MemoryStore(Side.BLOB, clock=_Clock())
    transfer = Transfer(TransferLimits(10, 10, 2), ByteBudget(1 << 30))
    await store.put("k", b"theirs", Metadata(), stamp=None, expected_etag=None)

    with pytest.raises(Reobserve):
        await transfer.send_large(
            MemoryReader(_present(20), b"y" * 20), store, "k", metadata=Metadata(), stamp=None, expected_etag=None
        )
    assert store.objects["k"].data == b"theirs"


async def test_a_failing_part_is_told_as_itself() -> None:
    """One part's fault comes out as that fault, not as a group."""
    store = MemoryStore(Side.VAST, clock=_Clock())
    transfer = Transfer(TransferLimits(10, 10, 2), ByteBudget(1 << 30))
    store.fail_next("put_part", RetryLater("503", reason="throttled", after_seconds=1))

    with pytest.raises(RetryLater, match="503"):
        await transfer.send_large(
            MemoryReader(_present(20), b"y" * 20), store, "k", metadata=Metadata(), stamp=None, expected_etag=None
        )


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
