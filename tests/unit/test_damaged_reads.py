"""Whole keys whose content arrives damaged, or whose ETag is not the hash of what is read: what is copied, and what never is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.errors import RetryLater
from federation.model import Mode, Side, Stamp
from federation.stores.memory import MemoryReader, MemoryStore
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
    """However often it is tried, nothing of it is committed: at last the key is parked with a reason that says what was read."""
    world = World()
    await world.write(side, "a", text)
    damage(world.raw[side], how)
    for _ in range(4):
        world.later(10)
        with pytest.raises(RetryLater) as caught:
            await world.step()
        assert caught.value.reason in {"content_mismatch", "cut_short"}
        await world.crash()
    assert "a" not in world.raw[side.other].objects


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
