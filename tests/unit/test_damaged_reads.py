"""Whole keys whose content arrives damaged, or whose ETag is not the hash of what is read: what is copied, and what never is."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from federation.errors import RetryLater
from federation.model import ETagKind, Mode, Present, Side, Stamp
from federation.progress import Parked
from federation.stores.memory import MemoryReader, MemoryStore, _Object
from tests.simulation.loop import SimLoop
from tests.unit.test_fairness import _Pair, _running, _Shared
from tests.unit.world import World

LARGE = "large " * 20
"""More than the world copies in one request."""


def damage(store: MemoryStore, how: str) -> None:
    """As a proxy in front of *store* does to every answer alike: another first byte, or a shorter body that says so."""
    real = store.open

    async def opened(key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        reader = await real(key, if_match=if_match, start=start, length=length)
        present, data = reader.present, reader._data
        if how == "flipped":
            return MemoryReader(present, bytes([data[0] ^ 1]) + data[1:])
        size_bytes = present.version.size_bytes - 1
        return MemoryReader(replace(present, version=replace(present.version, size_bytes=size_bytes)), data[:-1])

    store.open = opened  # type: ignore[method-assign]


@pytest.mark.parametrize("how", ["flipped", "shorter"])
@pytest.mark.parametrize("text", ["small", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("side", list(Side))
async def test_damage_that_comes_again_and_again_is_never_believed(side: Side, text: str, how: str) -> None:
    """However often it is tried, nothing of it is committed."""
    world, reasons = World(), []
    await world.write(side, "a", text)
    damage(world.raw[side], how)
    for _ in range(4):
        world.later(10)
        with pytest.raises(RetryLater) as caught:
            await world.step()
        reasons.append(caught.value.reason)
        await world.crash()
    assert "a" not in world.raw[side.other].objects
    # The first attempt goes by the size that its GET tells, until a part ends early; the others look first.
    assert reasons[0] == ("cut_short" if how == "shorter" and text == LARGE else "content_mismatch")
    assert set(reasons[1:]) == {"content_mismatch"}


@pytest.mark.parametrize("how", ["flipped", "shorter"])
@pytest.mark.parametrize("size_bytes", [8, 100], ids=["small", "large"])
def test_damage_that_never_ends_parks_its_key(size_bytes: int, how: str) -> None:
    """With a reason that says what was read, and without closing the side."""
    pair = _Pair(_Shared(), "one")

    async def scenario() -> Parked:
        async with _running(pair):
            await pair.write("a", size_bytes)
            while not (parked := await pair.state.parked()):
                await asyncio.sleep(1)
            return parked[0]

    damage(pair.raw[Side.BLOB], how)
    parked = SimLoop(1).run(scenario())
    assert (parked.key, parked.reason) == ("a", "content_mismatch")
    assert not pair.raw[Side.VAST].objects


async def _overwritten_in_place(world: World, text: str) -> None:
    """As on a gateway that keeps an S3-written object's ETag when the file below is overwritten."""
    store = world.raw[Side.VAST]
    before = store.objects["a"]
    world.later(60)
    store.write_file("a", text.encode())
    store.objects["a"] = replace(store.objects["a"], etag=before.etag, modified=Stamp(world.clock.us))
    real = store._present

    def told(found: object) -> object:
        present = real(found)  # type: ignore[arg-type]
        return replace(present, version=replace(present.version, md5=before.etag)) if found is store.objects["a"] else present

    store._present = told  # type: ignore[assignment, method-assign]
    world.later(60)
    await world.look("a")


@pytest.mark.parametrize("text", ["two", LARGE], ids=["small", "large"])
async def test_a_file_overwritten_under_the_agreed_etag_is_carried_over(text: str) -> None:
    """Read twice and alike, of the size that a HEAD told; from then on it is known that the ETag is another content's hash."""
    world = World()
    await world.write(Side.BLOB, "a", "one")
    await world.step()
    await _overwritten_in_place(world, text)
    await world.step()
    assert await world.both("a") == (text, text)
    [base] = await world.state.bases(["a"])
    assert base is not None
    assert base.md5 != base.vast_etag


async def test_what_was_agreed_on_under_a_wrong_etag_can_be_copied_once_more() -> None:
    """The hash that was read when it was agreed on counts, not the one that the ETag looks like."""
    world = World(Mode.VAST_MASTER)
    await world.write(Side.VAST, "a", "one")
    world.later(10)
    await world.step()
    await _overwritten_in_place(world, "two")
    await world.step()
    await world.write(Side.BLOB, "a", "three")
    world.later(60)
    await world.step()
    assert await world.both("a") == ("two", "two")


async def test_a_wrong_etag_that_was_never_agreed_on_is_not_believed() -> None:
    """Nothing tells it from damage on the way."""
    world = World()
    await world.write(Side.VAST, "a", "one", told=False)
    await _overwritten_in_place(world, "two")
    for _ in range(3):
        world.later(10)
        with pytest.raises(RetryLater) as caught:
            await world.step()
        assert caught.value.reason == "content_mismatch"
        await world.crash()
    assert "a" not in world.raw[Side.BLOB].objects


class _Unhashed:
    """A side that tells no MD5, with damage in every ``every``-th answer; which ranges were read, and what they brought."""

    def __init__(self, store: MemoryStore, *, checked_bytes: int = 0, every: int = 1) -> None:
        self.asked: list[int | None] = []
        self.every = every
        store.checked_bytes = checked_bytes
        store.sealed = False
        self._open, self._told = store.open, store._present
        self._checked_bytes = checked_bytes
        store.open = self.open  # type: ignore[method-assign]
        store._present = self.present  # type: ignore[method-assign]

    def present(self, found: _Object) -> Present:
        """Without a hash."""
        told = self._told(found)
        return replace(told, version=replace(told.version, md5=None, etag_kind=ETagKind.OPAQUE))

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        """As the twin; what is damaged is noticed where the answer brings its checksum."""
        reader = await self._open(key, if_match=if_match, start=start, length=length)
        self.asked.append(length)
        if len(self.asked) % self.every:
            return reader
        noticed = length is not None and length <= self._checked_bytes
        damaged = bytes([reader._data[0] ^ 1]) + reader._data[1:]
        return _Noticed(reader.present, damaged) if noticed else MemoryReader(reader.present, damaged)


class _Noticed(MemoryReader):
    async def read(self) -> bytes:
        """Not with its checksum."""
        raise RetryLater("does not fit", reason="content_mismatch")


@pytest.mark.parametrize("text", ["small", "middling " * 5, LARGE], ids=["small", "in_two_ranges", "large"])
async def test_a_blob_without_a_hash_is_read_in_ranges_that_bring_their_checksums(text: str) -> None:
    """Damage in every second answer is found in that range, which is read again; none is committed."""
    world = World()
    side = _Unhashed(world.raw[Side.BLOB], checked_bytes=24, every=2)
    await world.write(Side.BLOB, "a", text)
    await world.step()
    data = world.raw[Side.VAST].objects["a"].data
    assert data == text.encode()
    ranges = [length for length in side.asked if length is not None]
    assert max(ranges) <= 24
    assert len(ranges) > len(text) // 24


async def test_a_blob_without_a_hash_that_is_damaged_alike_is_never_copied() -> None:
    """Neither changed bytes, nor a shorter body that says so: the range tells the whole size."""
    for how in ("flipped", "shorter"):
        world = World()
        await world.write(Side.BLOB, "a", "content")
        store = world.raw[Side.BLOB]
        _Unhashed(store, checked_bytes=24, every=1 if how == "flipped" else 1_000)
        if how == "shorter":
            _shorter_as_a_whole(store)
        with pytest.raises(RetryLater) as caught:
            await world.step()
        assert caught.value.reason == "content_mismatch"
        assert "a" not in world.raw[Side.VAST].objects


def _shorter_as_a_whole(store: MemoryStore) -> None:
    real = store.open

    async def opened(key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        reader = await real(key, if_match=if_match, start=start, length=length)
        if length is not None:
            return reader
        version = replace(reader.present.version, size_bytes=reader.present.version.size_bytes - 1)
        return MemoryReader(replace(reader.present, version=version), reader._data[:-1])

    store.open = opened  # type: ignore[method-assign]


@pytest.mark.parametrize("text", ["small", LARGE], ids=["small", "large"])
async def test_without_hash_and_tls_two_readings_must_be_alike(text: str) -> None:
    """Over plain HTTP nothing else tells damage on the way; where TLS does, one reading is enough."""
    world = World()
    side = _Unhashed(world.raw[Side.VAST], every=2)
    await world.write(Side.VAST, "a", text)
    for every in (2, 1_000):
        side.every = every
        world.later(10)
        if every == 2:
            with pytest.raises(RetryLater) as caught:
                await world.step()
            assert caught.value.reason == "content_mismatch"
            assert "a" not in world.raw[Side.BLOB].objects
            await world.crash()
        else:
            await world.step()
    assert world.raw[Side.BLOB].objects["a"].data == text.encode()

    world.raw[Side.VAST].sealed = True
    side.asked.clear()
    await world.write(Side.VAST, "b", "small")
    world.later(10)
    await world.step()
    assert len(side.asked) == 1


async def _large_on_plain_vast() -> tuple[World, _Unhashed]:
    """Four parts that no hash tells of, over plain HTTP, undamaged."""
    world = World()
    for store in world.raw.values():
        store.capabilities = replace(store.capabilities, min_part_bytes=1)
    side = _Unhashed(world.raw[Side.VAST], every=1_000)
    await world.write(Side.VAST, "a", LARGE)
    return world, side


def _parts_sent(world: World) -> int:
    return sum(call == "put_part" for call, _ in world.raw[Side.BLOB].calls)


async def test_a_second_reading_that_is_refused_costs_its_part_alone() -> None:
    """Each part is compared before it is sent, with the patience of a part: no other is read or sent again for it."""
    world, side = await _large_on_plain_vast()
    store, refused = world.raw[Side.VAST], 0
    opened: Counter[int] = Counter()

    async def opening(key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        nonlocal refused
        opened[start] += length is not None
        if length is not None and start == 0 and opened[start] % 2 == 0 and refused < 10:
            refused += 1
            raise RetryLater("closed", reason="paced", after_seconds=0.1)
        return await side.open(key, if_match=if_match, start=start, length=length)

    store.open = opening  # type: ignore[method-assign]
    await world.step()
    assert world.raw[Side.BLOB].objects["a"].data == LARGE.encode()
    assert _parts_sent(world) == 4
    assert opened == {0: 22, 32: 2, 64: 2, 96: 2}


async def test_a_part_that_was_sent_is_read_once_by_the_next_attempt() -> None:
    """It was compared when it was sent, and must read as it was recorded."""
    world, side = await _large_on_plain_vast()
    world.raw[Side.BLOB].fail_next("complete", RetryLater("away", reason="unreachable"))
    with pytest.raises(RetryLater):
        await world.step()
    assert len([length for length in side.asked if length is not None]) == 2 * 4
    await world.crash()
    side.asked.clear()
    world.later(200)
    await world.step()
    assert world.raw[Side.BLOB].objects["a"].data == LARGE.encode()
    assert len([length for length in side.asked if length is not None]) == 4
    assert _parts_sent(world) == 4
