"""Deletes against everything else: edits, metadata, new objects, old events, no base."""

from __future__ import annotations

import pytest

from federation.model import Base, Change, Metadata, Side, Source, Stamp, StampOrigin
from federation.rules.decision import Action, Reason
from federation.sync.sync_key import NotQuiet
from tests.unit.world import SECOND, World

NOTED = Metadata(user=(("note", "new"),))


@pytest.fixture(params=list(Side), ids=str)
def side(request: pytest.FixtureRequest) -> Side:
    """The side on which the delete happens."""
    chosen: Side = request.param
    return chosen


async def agreed(side: Side, text: str = "one") -> World:
    """A world in which both sides hold "a", written on *side* ten seconds ago."""
    world = World()
    await world.write(side, "a", text)
    await world.step()
    world.later()
    return world


async def test_a_metadata_change_beats_a_delete_of_unknown_time(side: Side) -> None:
    """The object comes back where it was deleted, with the new metadata, and nothing is a conflict."""
    world = await agreed(side)
    await world.write(side.other, "a", "one", metadata=NOTED)
    await world.remove(side, "a", told=False)
    await world.look("a")
    [synced] = await world.step()

    assert synced.decision.reason is Reason.EDIT_BEATS_DELETE
    assert await world.both("a") == ("one", "one")
    assert (await world.raw[side].head("a")).metadata == NOTED
    assert await world.state.conflicts() == []


async def test_a_later_delete_beats_a_metadata_change_which_is_kept(side: Side) -> None:
    """Known to be later, the delete wins; the changed object can be read back, metadata and all."""
    world = await agreed(side)
    await world.write(side.other, "a", "one", metadata=NOTED)
    world.later(60)
    await world.remove(side, "a")
    [synced] = await world.step()

    assert synced.decision.reason is Reason.DELETE_BEATS_EDIT
    assert await world.both("a") == (None, None)
    [record] = await world.state.conflicts()
    assert (await world.raw[side.other].head(record.preserved_as)).metadata == NOTED


@pytest.mark.parametrize("where", ["same_side", "other_side"])
async def test_an_object_created_again_after_a_delete_travels(side: Side, where: str) -> None:
    """Whichever side creates it, and however young the tombstone is."""
    world = await agreed(side)
    await world.remove(side, "a")
    await world.step()
    assert await world.both("a") == (None, None)
    creator = side if where == "same_side" else side.other
    await world.write(creator, "a", "two")
    [synced] = await world.step()

    assert (synced.decision.action, synced.decision.reason) == (Action.COPY, Reason.RECREATED)
    assert await world.both("a") == ("two", "two")


async def test_an_object_created_again_with_an_older_time_than_its_tombstone_travels(side: Side) -> None:
    """A restored file carries an old time; no agreed version matches it, so it is a new write."""
    world = await agreed(side)
    lease = world.lease
    assert lease is not None
    await world.state.settle(lease, "b", 0, Base(deleted=True, written=Stamp(world.clock.us + 3600 * SECOND, 1)))
    await world.write(side, "b", "restored")
    [synced] = await world.step()

    assert synced.decision.reason is Reason.RECREATED
    assert await world.both("b") == ("restored", "restored")


async def test_a_delete_and_a_new_object_before_anybody_looked_is_an_overwrite(side: Side) -> None:
    """Both events lead to one look, which finds the new version; the delete never happened on the other side."""
    world = await agreed(side)
    await world.remove(side, "a")
    await world.write(side, "a", "two")
    synced = await world.step()

    assert [one.decision.action for one in synced] == [Action.COPY]
    assert await world.both("a") == ("two", "two")


async def test_two_deletes_merge_into_one_tombstone(side: Side) -> None:
    """Neither writes anything, and the repeat of either is an echo."""
    world = await agreed(side)
    for one in Side:
        await world.remove(one, "a")
    [synced] = await world.step()
    assert (synced.decision.reason, synced.base is not None and synced.base.deleted) == (Reason.BOTH_ABSENT, True)

    told = [Change("a", one, Source.EVENT_GRID, deleted=True, at=Stamp(world.clock.us, 1, StampOrigin.EVENT)) for one in Side]
    assert (await world.state.mark(told)).echoes == 2


async def test_an_old_create_event_brings_nothing_back(side: Side) -> None:
    """Replayed after the delete, even after its tombstone was forgotten, it is a look that finds nothing."""
    world = await agreed(side)
    etag = (await world.raw[side].head("a")).version.etag
    await world.remove(side, "a")
    await world.step()
    for _ in range(2):
        await world.tell(side, "a", etag=etag)
        [synced] = await world.step()
        assert synced.decision.reason is Reason.BOTH_ABSENT
        assert await world.both("a") == (None, None)
        await world.state.forget_tombstones(0, before_us=world.clock.us + SECOND)
    assert list(await world.state.bases(["a"])) == [None]


async def test_an_old_delete_event_deletes_nothing_that_was_created_since(side: Side) -> None:
    """An event is a hint: what is there now is there."""
    world = await agreed(side)
    await world.remove(side, "a")
    await world.step()
    await world.write(side, "a", "two")
    await world.step()
    requests = world.requests
    await world.tell(side, "a", deleted=True)
    [synced] = await world.step()

    assert (synced.decision.action, world.requests - requests) == (Action.NOTHING, 1)
    assert await world.both("a") == ("two", "two")


async def test_a_delete_that_meets_a_new_version_at_the_last_moment_deletes_nothing(side: Side) -> None:
    """The delete is sent with the agreed ETag; the version written in between stays, and travels back."""
    world = await agreed(side)
    await world.remove(side, "a", told=False)
    await world.look("a")
    written = False

    async def meanwhile(call: str, key: str) -> None:
        nonlocal written
        if call == "delete" and key == "a" and not written:
            written = True
            await world.write(side.other, "a", "just in time", told=False)

    world.raw[side.other]._hook = meanwhile
    try:
        await world.step()
    except NotQuiet:  # a VAST version that no event vouches for
        await world.crash()
        world.later(20)
        await world.step()

    assert written
    assert await world.both("a") == ("just in time", "just in time")
