"""Tags, where ``rules.tags`` maps them: they travel with content and alone, within each side's limits, and never move data."""

from __future__ import annotations

import pytest

from federation import metadata
from federation.model import Metadata, Side
from tests.unit.world import World

RED, BLUE = (("colour", "red"),), (("colour", "blue"),)


async def tagged(side: Side, *, mapped: bool = True) -> World:
    """Both sides agree on ``a``, written by a user of *side* with the tag *RED*."""
    world = World()
    for store in world.raw.values():
        store.map_tags = mapped
    await world.write(side, "a", "content", metadata=Metadata(tags=RED))
    await world.step()
    world.later(60)
    return world


async def both(world: World) -> tuple[object, object]:
    """Tags on Blob and on VAST."""
    return await world.raw[Side.BLOB].read_tags("a"), await world.raw[Side.VAST].read_tags("a")


@pytest.fixture(params=list(Side), ids=str)
def side(request: pytest.FixtureRequest) -> Side:
    """The side a user works on."""
    chosen: Side = request.param
    return chosen


async def test_tags_travel_with_content(side: Side) -> None:
    """A new object, and a new version, take their tags along."""
    world = await tagged(side)
    assert await both(world) == (RED, RED)
    await world.write(side, "a", "other content", metadata=Metadata(tags=BLUE))
    await world.step()
    assert await both(world) == (BLUE, BLUE)
    assert await world.state.conflicts() == []


@pytest.mark.parametrize("tags", [BLUE, ()], ids=["changed", "removed"])
async def test_a_tags_only_change_moves_no_data(side: Side, tags: tuple[tuple[str, str], ...]) -> None:
    """Found at a look (no ETag moves), it is carried over alone: nothing is read or written, and no version changes."""
    world = await tagged(side)
    etags = [(await world.raw[one].head("a")).version.etag for one in Side]
    await world.raw[side].write_tags("a", dict(tags))
    calls = {one: len(world.raw[one].calls) for one in Side}
    await world.tell(side, "a")
    await world.step()
    assert await both(world) == (tags, tags)
    done = {call for one in Side for call, _ in world.raw[one].calls[calls[one] :]}
    assert done == {"head", "replace_metadata"}
    assert [(await world.raw[one].head("a")).version.etag for one in Side] == etags
    await world.tell(side, "a")
    [synced] = await world.step()
    assert synced.decision.action == "nothing"


async def test_tags_of_both_sides_are_a_conflict_of_metadata() -> None:
    """The losing tags are in the record; the sides agree."""
    world = await tagged(Side.BLOB)
    await world.raw[Side.BLOB].write_tags("a", dict(BLUE))
    await world.raw[Side.VAST].write_tags("a", {"colour": "green"})
    await world.look("a")
    await world.step()
    [record] = await world.state.conflicts()
    assert record.loser_metadata is not None
    blob, vast = await both(world)
    assert blob == vast != record.loser_metadata.tags
    assert {blob, record.loser_metadata.tags} == {BLUE, (("colour", "green"),)}


async def test_a_tag_set_on_the_side_that_is_overwritten_is_not_lost(side: Side) -> None:
    """No condition notices a tag, so the other side is looked at before its version is replaced."""
    world = await tagged(side)
    await world.raw[side.other].write_tags("a", dict(BLUE))
    await world.write(side, "a", "new", metadata=Metadata(tags=RED))
    await world.step()
    [record] = await world.state.conflicts()
    assert record.key == "a"
    assert await world.both("a") == ("new", "new")


async def test_what_a_side_cannot_hold_stays_at_its_source() -> None:
    """S3 takes ``@`` and letters of any script, Azure does not: left out there, and not erased by the way back."""
    world = World()
    for store in world.raw.values():
        store.map_tags = True
    tags = (("mail", "a@b"), ("plain", "1"), ("wörd", "x"))
    await world.write(Side.VAST, "a", "content", metadata=Metadata(tags=tags))
    await world.step()
    assert await both(world) == ((("plain", "1"),), tags)
    world.later(60)
    await world.write(Side.BLOB, "a", "from blob", metadata=Metadata(tags=(("plain", "2"),)))
    await world.step()
    assert await both(world) == ((("plain", "2"),), (("mail", "a@b"), ("plain", "2"), ("wörd", "x")))


async def test_switched_off_nothing_is_done_about_tags(side: Side) -> None:
    """Neither written nor looked at, and a digest that knows no tags equals one of no tags."""
    world = await tagged(side, mapped=False)
    assert (await world.raw[side.other].head("a")).metadata.tags is None
    assert metadata.digest(Metadata()) == metadata.digest(Metadata(tags=())) != metadata.digest(Metadata(tags=RED))


@pytest.mark.parametrize("side_limits", list(Side), ids=str)
def test_limits_of_the_sides(side_limits: Side) -> None:
    """Ten tags, 128 and 256 characters (facts/azure.md 3.4); what is beyond is left out and said to be lossy."""
    fine = tuple((f"{i:02d}" + "n" * 126, "v" * 256) for i in range(10))
    assert metadata.to_side(Metadata(tags=fine), None, side_limits).tags == fine
    assert not metadata.to_side(Metadata(tags=fine), None, side_limits).lossy
    for tags, kept in (
        ((*fine, ("zz", "eleventh")), fine),
        ((("n" * 129, ""),), ()),
        ((("n", "v" * 257),), ()),
        ((("a,b", ""),), ()),
    ):
        stored = metadata.to_side(Metadata(tags=tags), None, side_limits)
        assert (stored.tags, stored.lossy) == (kept, True)
