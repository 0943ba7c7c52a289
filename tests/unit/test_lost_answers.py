"""What the simulation draws seldom: unrecorded copies of ours, and sides that were equal one after the other."""

from __future__ import annotations

from dataclasses import replace
from hashlib import md5

import pytest

from federation.model import Change, Side, Source, Stamp, StampOrigin
from tests.unit.world import World

ONE, TWO = "one" * 40, "two" * 40


class _Killed(Exception):
    """The process is gone."""


async def _killed_before(world: World, store_call: str = "", on: Side = Side.VAST) -> None:
    """One pass that is killed before its *store_call* on one side, else before it can record what it did."""

    async def hook(name: str, key: str) -> None:
        del key
        if name == store_call:
            raise _Killed

    async def settle(*_: object) -> bool:
        raise _Killed

    world.raw[on]._hook = hook
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.state, "settle", settle)
        with pytest.raises((_Killed, BaseExceptionGroup)):
            await world.step()
    world.raw[on]._hook = None
    await world.crash()


@pytest.mark.parametrize("tries", [1, 2, 3])
async def test_our_unrecorded_copy_stays_ours_however_often_its_successor_fails(tries: int) -> None:
    """A large copy was made and not recorded, and each attempt to bring the next version died: nothing is taken for a user's."""
    world = World()
    for store in world.raw.values():
        store.capabilities = replace(store.capabilities, min_part_bytes=1)
    await world.write(Side.BLOB, "a", ONE)
    await _killed_before(world)
    assert await world.both("a") == (ONE, ONE)
    await world.write(Side.BLOB, "a", TWO)
    for _ in range(tries):
        await _killed_before(world, "complete")
    await world.step()
    assert await world.both("a") == (TWO, TWO)
    assert await world.state.conflicts() == []


@pytest.mark.parametrize("side", list(Side))
async def test_our_unrecorded_delete_is_no_user_s(side: Side) -> None:
    """It was carried out and not recorded, and its event is later than what is put back meanwhile: that stays."""
    world = World()
    await world.write(side, "a", ONE)
    await world.step()
    await world.remove(side, "a")
    world.later()
    await _killed_before(world)
    assert await world.both("a") == (None, None)
    ours = Stamp(world.clock.us, 1, StampOrigin.EVENT)
    world.later(-5)
    await world.write(side, "a", TWO)
    world.later()
    source = Source.EVENT_GRID if side.other is Side.BLOB else Source.VAST_EVENTS
    await world.state.mark([Change("a", side.other, source, deleted=True, at=ours)])
    await world.step()
    assert await world.both("a") == (TWO, TWO)
    assert await world.state.conflicts() == []


@pytest.mark.parametrize("side", list(Side))
async def test_a_delete_of_which_nothing_came_proves_nothing(side: Side) -> None:
    """The process died before it: what is there is deleted by the next one, unless it was put back on the other side."""
    world = World()
    for key in ("a", "b"):
        await world.write(side, key, ONE)
    await world.step()
    for key in ("a", "b"):
        await world.remove(side, key)
    await _killed_before(world, "delete", on=side.other)
    assert await world.both("a") == ((None, ONE) if side is Side.BLOB else (ONE, None))
    world.later()
    await world.write(side, "b", TWO)
    await world.step()
    assert await world.both("a") == (None, None)
    assert await world.both("b") == (TWO, TWO)
    assert await world.state.conflicts() == []


@pytest.mark.parametrize("side", list(Side))
async def test_our_unrecorded_copy_stays_ours_however_often_its_delete_fails(side: Side) -> None:
    """Its source is gone: a process that dies before it can delete the copy too leaves nothing that looks like a user's."""
    world = World()
    await world.write(side, "a", ONE)
    await _killed_before(world)
    assert await world.both("a") == (ONE, ONE)
    await world.remove(side, "a")
    for _ in range(2):
        await _killed_before(world, "delete", on=side.other)
    await world.step()
    assert await world.both("a") == (None, None)
    assert await world.state.conflicts() == []


async def test_sides_that_were_equal_one_after_the_other_are_not_agreed_on() -> None:
    """Blob is looked at first; while VAST is looked at both change: what was seen was never true at one moment (rule 5)."""
    world = World()
    await world.write(Side.BLOB, "a", "x", told=False)
    await world.write(Side.VAST, "a", "z", told=False)

    async def hook(name: str, key: str) -> None:
        world.raw[Side.VAST]._hook = None
        await world.write(Side.BLOB, key, "y", told=False)
        await world.write(Side.VAST, key, "x", told=False)
        assert name == "head"

    await world.look("a")
    await world.tell(Side.VAST, "a", etag=md5(b"x", usedforsecurity=False).hexdigest())
    world.raw[Side.VAST]._hook = hook
    await world.step()
    blob, vast = await world.both("a")
    assert blob == vast
    assert len(await world.state.conflicts()) == 1
