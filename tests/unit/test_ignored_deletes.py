"""What one side keeps although it was deleted on the other, where deletes to it are ignored."""

from __future__ import annotations

import pytest

from federation.model import Foreign, Mode, Side
from federation.rules.decision import Action
from tests.unit.world import World


async def touched(world: World, *, looks: int) -> None:
    """Written again over NFS with the bytes it had, and looked at so often."""
    world.later(60)
    world.raw[Side.VAST].write_file("a", b"one")
    for _ in range(looks):
        world.later(60)
        await world.look("a")
        await world.step()


@pytest.mark.parametrize("as_file", [False, True], ids=["over S3", "as a file"])
async def test_an_nfs_touch_does_not_bring_it_back(as_file: bool) -> None:
    """Not the first and not the third, however often it was looked at between: the agreed hash is not forgotten."""
    world = World(deletes_to_vast=False)
    if as_file:
        world.raw[Side.VAST].write_file("a", b"one")
        world.later(60)
        await world.look("a")
    else:
        await world.write(Side.VAST, "a", "one")
    await world.step()
    world.later(60)
    await world.remove(Side.BLOB, "a")
    [synced] = await world.step()
    assert synced.decision.action is Action.KEEP
    for looks in (1, 2, 1):
        await touched(world, looks=looks)
        assert await world.both("a") == (None, "one")
    world.later(60)
    world.raw[Side.VAST].write_file("a", b"two")
    world.later(60)
    await world.look("a")
    await world.step()
    assert await world.both("a") == ("two", "two"), "a change does"


async def test_an_nfs_touch_in_a_zone_does_not_remove_it() -> None:
    """It is no foreign object: its master deleted it, and deletes to the zone are off."""
    world = World(Mode.BLOB_MASTER, deletes_to_vast=False, foreign=Foreign.PRESERVE_AND_REMOVE)
    await world.write(Side.BLOB, "a", "one")
    world.raw[Side.VAST].write_file("a", b"one")
    world.later(60)
    await world.look("a")
    await world.step()
    world.later(60)
    await world.remove(Side.BLOB, "a")
    await world.step()
    await touched(world, looks=2)
    assert await world.both("a") == (None, "one")
    assert await world.state.conflicts() == []
