"""Renames, overwrites, tags, and conditions that fail at the last moment, through the real engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from federation.model import Change, Hint, Metadata, Side, Source, Stamp, StampOrigin
from federation.rules.decision import Action
from federation.sync.observe import complete, new_stamp
from federation.sync.sync_key import NotQuiet
from tests.unit.world import World


@pytest.fixture(params=list(Side), ids=str)
def side(request: pytest.FixtureRequest) -> Side:
    """The side a user works on."""
    chosen: Side = request.param
    return chosen


async def agreed(side: Side, **objects: str) -> World:
    """A world whose sides agree on *objects*, written on *side* ten seconds ago."""
    world = World()
    for key, text in objects.items():
        await world.write(side, key, text)
    await world.step()
    world.later()
    return world


def at_call(world: World, side: Side, call: str, act: Callable[[], Awaitable[object]]) -> list[str]:
    """Let *act* happen just before the first such call on *side*; the list tells that it did."""
    happened: list[str] = []

    async def hook(name: str, key: str) -> None:
        if name == call and not happened:
            happened.append(key)
            await act()

    world.raw[side]._hook = hook
    return happened


async def work(world: World) -> None:
    """One pass, and another when a VAST version that no event vouches for has been quiet long enough."""
    try:
        await world.step()
    except NotQuiet:
        await world.crash()
        world.later(20)
        await world.step()


async def all_of(world: World, *keys: str) -> list[tuple[str | None, str | None]]:
    """Content on both sides of each key."""
    return [await world.both(key) for key in keys]


# ---------------------------------------------------------------------------------------------------------------- renames


@pytest.mark.parametrize("order", ["copy_first", "delete_first", "delete_only_seen"])
async def test_a_rename_is_a_copy_and_a_delete_in_any_order(side: Side, order: str) -> None:
    """Object stores know no rename: the new name travels, the old goes, and nothing is a conflict."""
    world = await agreed(side, a="one")
    await world.write(side, "b", "one", told=order == "copy_first")
    await world.remove(side, "a", told=order != "delete_only_seen")
    if order == "delete_first":
        await world.tell(side, "b", etag=(await world.raw[side].head("b")).version.etag)
    if order == "delete_only_seen":
        await world.look("b")
        await world.look("a")
        world.later(20)
    await world.step()

    assert await all_of(world, "a", "b") == [(None, None), ("one", "one")]
    assert await world.state.conflicts() == []


async def test_a_rename_over_an_object_replaces_it(side: Side) -> None:
    """The replaced version was overwritten by its own side's user: nothing to preserve."""
    world = await agreed(side, a="one", b="two")
    await world.write(side, "b", "one")
    await world.remove(side, "a")
    await world.step()

    assert await all_of(world, "a", "b") == [(None, None), ("one", "one")]
    assert await world.state.conflicts() == []


async def test_an_edit_under_the_old_name_survives_a_rename(side: Side) -> None:
    """Both names exist then: the renamed content under the new one, the edit under the old."""
    world = await agreed(side, a="one")
    await world.write(side, "b", "one")
    await world.remove(side, "a")
    world.later(60)
    await world.write(side.other, "a", "edited")
    await world.step()

    assert await all_of(world, "a", "b") == [("edited", "edited"), ("one", "one")]


async def test_renamed_apart_on_both_sides_both_new_names_stay(side: Side) -> None:
    """Nothing ties two names together, so nothing is lost and nothing is a conflict."""
    world = await agreed(side, a="one")
    for place, name in ((side, "mine"), (side.other, "theirs")):
        await world.write(place, name, "one")
        await world.remove(place, "a")
    await world.step()

    assert await all_of(world, "a", "mine", "theirs") == [(None, None), ("one", "one"), ("one", "one")]
    assert await world.state.conflicts() == []


async def test_two_names_exchanged_are_two_overwrites(side: Side) -> None:
    """Each key is decided alone, by what it holds now."""
    world = await agreed(side, a="one", b="two")
    await world.write(side, "a", "two")
    await world.write(side, "b", "one")
    await world.step()

    assert await all_of(world, "a", "b") == [("two", "two"), ("one", "one")]


# -------------------------------------------------------------------------------------------------------------- overwrites


async def test_many_overwrites_before_a_look_are_one_copy(side: Side) -> None:
    """A dirty key is dirty once; what was overwritten by its own user in between is nobody's loss."""
    world = await agreed(side, a="one")
    for number in range(10):
        await world.write(side, "a", f"version {number}")
    synced = await world.step()

    assert [one.decision.action for one in synced] == [Action.COPY]
    assert await world.both("a") == ("version 9", "version 9")
    assert await world.state.conflicts() == []


async def test_changed_and_put_back_moves_nothing(side: Side) -> None:
    """A, B, A between two looks: the content is the agreed one, whatever became of the ETag."""
    world = await agreed(side, a="one")
    for text in ("two", "one"):
        await world.write(side, "a", text)
    before = list(world.raw[side.other].calls)
    [synced] = await world.step()

    assert synced.decision.action in (Action.NOTHING, Action.ADOPT)
    assert "put" not in [call for call, _ in world.raw[side.other].calls[len(before) :]]
    assert await world.both("a") == ("one", "one")


async def test_an_overwrite_with_equal_bytes_and_new_metadata_moves_metadata_only(side: Side) -> None:
    """Content that is proved equal does not travel."""
    world = await agreed(side, a="one")
    await world.write(side, "a", "one", metadata=Metadata(content_type="text/plain"))
    [synced] = await world.step()

    assert synced.decision.action is Action.METADATA
    assert (await world.raw[side.other].head("a")).metadata == Metadata(content_type="text/plain")


# -------------------------------------------------------------------------------------------------- conditions that fail


async def test_a_destination_that_changed_at_the_last_moment_is_not_overwritten(side: Side) -> None:
    """The write carries the agreed ETag; refused, both sides are looked at and the later of two writers wins, the other kept."""
    world = await agreed(side, a="one")
    await world.write(side, "a", "mine")

    async def theirs() -> None:
        world.later(60)
        await world.write(side.other, "a", "theirs")

    happened = at_call(world, side.other, "put", theirs)
    await work(world)

    assert happened == ["a"]
    assert await world.both("a") == ("theirs", "theirs")
    [record] = await world.state.conflicts()
    assert await world.text(side, record.preserved_as) == "mine"


async def test_two_creations_that_meet_are_a_conflict_and_not_an_overwrite(side: Side) -> None:
    """A copy to a free name says so (If-None-Match): who took the name in between is found, not lost."""
    world = World()
    await world.write(side, "a", "mine")

    async def theirs() -> None:
        world.later(60)
        await world.write(side.other, "a", "theirs")

    happened = at_call(world, side.other, "put", theirs)
    await work(world)

    assert happened
    assert await world.both("a") == ("theirs", "theirs")
    assert [record.loser_side for record in await world.state.conflicts()] == [side]


async def test_a_source_that_changes_while_it_is_read_is_read_again(side: Side) -> None:
    """What arrives is one version, the last, never a mixture, and the key settles with the version that was copied."""
    world = await agreed(side, a="one")
    await world.write(side, "a", "two " * 40)

    async def rewritten() -> None:
        await world.write(side, "a", "tre " * 40)

    happened = at_call(world, side.other, "begin_upload", rewritten)
    await work(world)
    await work(world)

    assert happened
    assert await world.both("a") == ("tre " * 40, "tre " * 40)
    assert await world.state.conflicts() == []


async def test_a_loser_that_moves_while_it_is_preserved_is_decided_again(side: Side) -> None:
    """The copy of the loser is conditional on its ETag: what is recorded is what was kept."""
    world = await agreed(side, a="one")
    await world.write(side, "a", "mine")
    world.later(60)
    await world.write(side.other, "a", "theirs")

    async def again() -> None:
        world.later(60)
        await world.write(side, "a", "mine again")

    happened = at_call(world, side, "copy", again)
    await work(world)

    assert happened
    assert await world.both("a") == ("mine again", "mine again")
    [record] = await world.state.conflicts()
    assert (record.loser_side, await world.text(side.other, record.preserved_as)) == (side.other, "theirs")


async def test_a_server_that_ignores_conditions_is_looked_at_right_before_the_write(side: Side) -> None:
    """The window is counted; a version that was there before the look is found all the same (rule 5)."""
    world = await agreed(side, a="one")
    target = world.raw[side.other]
    target.capabilities = replace(target.capabilities, conditional_put=False)
    await world.write(side, "a", "mine")

    async def theirs() -> None:
        world.later(60)
        await world.write(side.other, "a", "theirs")

    happened = at_call(world, side.other, "put", theirs)
    await work(world)

    assert happened
    assert target.race_windows > 0
    assert await world.both("a") == ("theirs", "theirs")
    assert len(await world.state.conflicts()) == 1


async def test_a_condition_that_fails_for_our_own_earlier_write_makes_no_conflict(side: Side) -> None:
    """The first answer was lost, the repeat is refused: what stands there is our own copy, and is adopted."""
    world = await agreed(side, a="one")
    await world.write(side, "a", "two")
    store = world.raw[side.other]
    source = await world.raw[side].head("a")

    async def arrived() -> None:
        # The request that seemed lost takes effect after all, just before its repeat.
        seen = complete(source, "a", side, Hint("a", 0))
        stamp = new_stamp("a", seen, side, source.version.modified)
        expected = (await store.head("a")).version.etag
        await store.put("a", b"two", source.metadata, stamp=stamp, expected_etag=expected)

    happened = at_call(world, side.other, "put", arrived)
    await work(world)

    assert happened
    assert await world.both("a") == ("two", "two")
    assert await world.state.conflicts() == []


# ------------------------------------------------------------------------------------------------------------------- tags


async def test_a_tags_only_change_moves_nothing() -> None:
    """An ObjectTagging event names no version: one look finds the agreed one; no write, no conflict, on either side."""
    world = await agreed(Side.VAST, a="one")
    calls = {side: len(world.raw[side].calls) for side in Side}
    at = Stamp(world.clock.us, 1, StampOrigin.EVENT)
    await world.state.mark([Change("a", Side.VAST, Source.VAST_EVENTS, etag=None, at=at)])
    [synced] = await world.step()

    assert synced.decision.action is Action.NOTHING
    assert [[call for call, _ in world.raw[side].calls[calls[side] :]] for side in Side] == [[], ["head"]]


async def test_tags_that_move_the_time_of_a_vast_object_cost_a_read_and_no_write() -> None:
    """A later time under the agreed ETag may be a file overwritten in place (docs/adr/0005): read, hashed, found equal."""
    world = await agreed(Side.BLOB, a="one")
    vast = world.raw[Side.VAST]
    vast.objects["a"] = replace(vast.objects["a"], modified=Stamp(world.clock.us))
    world.later(60)
    await world.look("a")
    calls = {side: len(world.raw[side].calls) for side in Side}
    [synced] = await world.step()

    assert synced.decision.action is Action.NOTHING
    done = {call for side in Side for call, _ in world.raw[side].calls[calls[side] :]}
    assert done <= {"head", "open"}
    assert await world.state.conflicts() == []
