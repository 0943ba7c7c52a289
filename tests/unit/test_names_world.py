"""Names at the limits of a side, over the real engine."""

from __future__ import annotations

import pytest

from federation.errors import Park
from federation.model import Side
from tests.unit.world import World


@pytest.mark.parametrize(
    "key", ["d/" + "x" * 255, ("y" * 200 + "/") * 5 + "z", "d/" * 252 + "e"], ids=["segment", "length", "depth"]
)
@pytest.mark.parametrize("loser", Side)
async def test_the_loser_of_a_long_key_is_kept_too(key: str, loser: Side) -> None:
    """A key that leaves no room for its preserved copy's name is settled like any other; the record says where the copy is."""
    world = World()
    await world.write(loser, key, "early")
    world.later()
    await world.write(loser.other, key, "late")
    await world.step()
    assert await world.both(key) == ("late", "late")
    [record] = await world.state.conflicts()
    assert record.key == key
    assert await world.text(loser, record.preserved_as) == "early"


@pytest.mark.parametrize(("key", "limit"), [("x" * 256, "256 characters in one segment"), ("é" * 600, "1200 bytes")])
async def test_what_vast_cannot_hold_is_parked_with_its_limit(key: str, limit: str) -> None:
    """The worker is told which limit it was, nothing is written, and the source stays."""
    world = World()
    await world.write(Side.BLOB, key, "text")
    with pytest.raises(Park) as error:
        await world.step()
    assert error.value.reason == "unrepresentable"
    assert limit in str(error.value)
    assert await world.text(Side.BLOB, key) == "text"
    assert not world.raw[Side.VAST].objects
