"""Metadata that one side cannot hold, over the real engine: copied, edited on the other side, brought back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import metadata
from federation.model import Metadata, Mode, Side
from federation.rules.decision import Action
from tests.unit.world import World

KEY = "k"
BIG = ("big", "v" * 3000)
RICH = Metadata(content_type="text/plain", user=(BIG, ("small", "1")))
names = st.text(alphabet="abc-_.é", min_size=1, max_size=4)
values = st.one_of(st.text(max_size=5), st.integers(0, 2500).map("v".__mul__), st.just("é" * 500))


async def there(world: World, side: Side) -> Metadata:
    """What a user sees on *side*."""
    return (await world.raw[side].head(KEY)).metadata


async def copied(rich: Metadata, **world_rules: object) -> World:
    """A world in which Blob's object was carried to VAST."""
    world = World(**world_rules)  # type: ignore[arg-type]
    await world.write(Side.BLOB, KEY, "one", metadata=rich)
    await world.step()
    world.later()
    return world


@pytest.mark.parametrize("size", [1, 200], ids=["small", "in parts"])
async def test_an_edit_on_the_poorer_side_erases_nothing_it_never_held(size: int) -> None:
    """VAST's user writes new content with the metadata that is visible there: Blob keeps what VAST could not hold."""
    world = await copied(RICH)
    seen = await there(world, Side.VAST)
    assert seen == replace(RICH, user=(("small", "1"),))
    for turn in ("two", "three"):
        await world.write(Side.VAST, KEY, turn * size, metadata=replace(seen, user=(("small", turn),)))
        await world.step()
        assert await world.both(KEY) == (turn * size, turn * size)
        assert await there(world, Side.BLOB) == replace(RICH, user=(BIG, ("small", turn)))
        world.later()
    await world.look(KEY)
    [done] = await world.step()
    assert done.decision.action is Action.NOTHING


@pytest.mark.parametrize("before", [RICH, replace(RICH, user=(("small", "1"),))], ids=["again", "for the first time"])
async def test_what_was_written_beside_an_edit_is_not_erased_by_it(before: Metadata) -> None:
    """Blob's user writes what VAST cannot hold, and nothing else that is new, while VAST's user writes: both stay."""
    world = await copied(before)
    await world.write(Side.BLOB, KEY, "one", metadata=RICH)
    world.later()
    await world.write(Side.VAST, KEY, "two", metadata=await there(world, Side.VAST))
    await world.step()
    assert await world.both(KEY) == ("two", "two")
    assert await there(world, Side.BLOB) == RICH
    assert not await world.state.conflicts()


async def test_a_file_write_on_the_poorer_side_erases_nothing() -> None:
    """An NFS client knows no metadata at all."""
    world = await copied(RICH)
    world.raw[Side.VAST].write_file(KEY, b"two")
    world.later()
    await world.look(KEY)
    await world.step()
    assert await world.both(KEY) == ("two", "two")
    assert await there(world, Side.BLOB) == RICH


async def test_after_the_state_was_lost_nothing_is_erased_either() -> None:
    """The stamp on a lossy copy proves that VAST's smaller metadata is no user's wish."""
    world = await copied(RICH)
    fresh = World()
    fresh.raw = world.raw
    fresh.ctx = replace(fresh.ctx, stores=world.ctx.stores)
    await fresh.look(KEY)
    await fresh.step()
    assert await there(fresh, Side.BLOB) == RICH
    assert not await fresh.state.conflicts()
    await fresh.write(Side.VAST, KEY, "two", metadata=await there(fresh, Side.VAST))
    await fresh.step()
    assert await there(fresh, Side.BLOB) == RICH


async def test_metadata_alone_travels_from_where_not_all_of_it_fits() -> None:
    """A change of VAST's metadata reaches Blob, and what VAST could not hold stays there."""
    world = await copied(RICH)
    held = await there(world, Side.VAST)
    world.later()
    await world.write(Side.VAST, KEY, "one", metadata=replace(held, cache_control="no-store"))
    await world.step()
    assert await there(world, Side.BLOB) == replace(RICH, cache_control="no-store")
    assert not await world.state.conflicts()


async def test_a_read_only_zone_is_reverted_whole() -> None:
    """What a foreign write put into the zone goes, also what the master could not hold."""
    world = await copied(Metadata(), mode=Mode.VAST_MASTER)
    await world.write(Side.VAST, KEY, "master", metadata=Metadata())
    await world.step()
    world.later()
    await world.write(Side.BLOB, KEY, "foreign", metadata=RICH)
    await world.step()
    assert await world.both(KEY) == ("master", "master")
    assert await there(world, Side.BLOB) == Metadata()


async def test_what_was_agreed_on_in_a_zone_keeps_what_the_master_cannot_hold() -> None:
    """The zone's user wrote what the master has, and more of metadata than it can hold: later writes of the master erase none."""
    world = World(mode=Mode.VAST_MASTER)
    await world.write(Side.BLOB, KEY, "one", metadata=RICH)
    await world.write(Side.VAST, KEY, "one", metadata=replace(RICH, user=(("small", "1"),)))
    await world.step()
    world.later()
    await world.write(Side.VAST, KEY, "two", metadata=replace(RICH, user=(("small", "2"),)))
    await world.step()
    assert await world.both(KEY) == ("two", "two")
    assert await there(world, Side.BLOB) == replace(RICH, user=(BIG, ("small", "2")))


async def test_the_winner_of_a_conflict_takes_nothing_from_the_loser() -> None:
    """Both sides wrote: the loser's version is kept as a whole, and none of its metadata mixes into the winner's."""
    world = await copied(RICH)
    await world.write(Side.BLOB, KEY, "loser", metadata=replace(RICH, user=(("other", "w" * 3000),)))
    world.later()
    await world.write(Side.VAST, KEY, "winner", metadata=Metadata())
    await world.step()
    assert await world.both(KEY) == ("winner", "winner")
    assert await there(world, Side.BLOB) == Metadata()


@settings(max_examples=60)
@given(user=st.dictionaries(names, values, max_size=6), side=st.sampled_from(Side))
async def test_copied_and_looked_back_at(user: dict[str, str], side: Side) -> None:
    """Whatever the metadata: the other side gets what it can hold, and its user's next write erases nothing else."""
    rich = Metadata(content_type="text/plain", user=tuple(sorted(user.items())))
    world = World()
    await world.write(side, KEY, "one", metadata=rich)
    source = await there(world, side)
    await world.step()
    world.later()
    seen = await there(world, side.other)
    assert seen == metadata.held(source, side.other)
    await world.write(side.other, KEY, "two", metadata=seen)
    await world.step()
    assert await world.both(KEY) == ("two", "two")
    assert await there(world, side) == source
