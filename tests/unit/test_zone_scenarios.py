"""What happens in a read-only zone: foreign objects, foreign deletes, and writers who do not stop."""

from __future__ import annotations

import dataclasses

import pytest

from federation.errors import Park
from federation.model import Change, Foreign, Mode, Side, Source
from federation.progress import UNION_NOTE, DeleteBudget, Held
from federation.rules.decision import Action, Reason
from federation.sync.apply import DeleteHeld
from tests.unit.world import World

MODES = {Side.BLOB: Mode.BLOB_MASTER, Side.VAST: Mode.VAST_MASTER}


@pytest.fixture(params=list(Side), ids=lambda side: f"{side}_is_zone")
def zone(request: pytest.FixtureRequest) -> Side:
    """The side that is read-only."""
    chosen: Side = request.param
    return chosen


def removing(zone: Side) -> World:
    """A world whose zone is rid of foreign objects."""
    return World(MODES[zone.other], foreign=Foreign.PRESERVE_AND_REMOVE)


async def test_a_foreign_object_is_kept_by_default_and_looked_at_once(zone: Side) -> None:
    """It stays where it is, does not reach the master, and is no conflict."""
    world = World(MODES[zone.other])
    await world.write(zone, "a", "foreign")
    [synced] = await world.step()

    assert (synced.decision.action, synced.decision.reason) == (Action.KEEP, Reason.FOREIGN_IN_ZONE)
    assert await world.text(zone, "a") == "foreign"
    assert await world.text(zone.other, "a") is None
    await world.look("a")
    [again] = await world.step()
    assert again.decision.action is Action.NOTHING
    assert await world.state.conflicts() == []


async def test_a_foreign_object_can_be_preserved_and_removed(zone: Side) -> None:
    """Its bytes are listed as a conflict and can be read back; the zone is as its master again."""
    world = removing(zone)
    await world.write(zone, "a", "foreign")
    await world.step()

    assert await world.both("a") == (None, None)
    [record] = await world.state.conflicts()
    assert (record.loser_side, record.reason) == (zone, Reason.FOREIGN_IN_ZONE)
    assert await world.text(zone, record.preserved_as) == "foreign"
    await world.look("a")
    assert [one.decision.action for one in await world.step()] == [Action.ADOPT]


async def test_a_removal_counts_against_the_delete_budget(zone: Side) -> None:
    """A mass of foreign objects waits for a person (rule 8), and a person who rejects leaves it where it is."""
    world = removing(zone)
    world.ctx = dataclasses.replace(world.ctx, delete_budget=DeleteBudget(count=1, share=1.0, window_seconds=600))
    await world.write(zone, "a", "a")
    await world.step()
    await world.write(zone, "b", "b")
    with pytest.raises(DeleteHeld):
        await world.step()
    assert await world.text(zone, "b") == "b"
    assert [one.key for one in await world.state.conflicts()] == ["a"]

    await world.crash()
    lease = world.lease = await world.state.acquire(0, owner="t", ttl_seconds=1e9)
    assert lease is not None
    [claim] = await world.state.claim(lease, limit=1, now_us=world.clock.now_us())
    await world.state.hold(lease, "b", claim.hint.generation, Held("b", zone, "delete_budget", world.clock.now_us()))
    world.later()
    await world.state.judge(["b"], verdict="rejected", now_us=world.clock.now_us())
    [synced] = await world.step()
    assert (synced.decision.action, synced.decision.reason) == (Action.KEEP, Reason.REJECTED_DELETE)
    assert (await world.text(zone, "b"), await world.text(zone.other, "b")) == ("b", None)


async def test_nothing_is_removed_while_the_base_is_being_rebuilt(zone: Side) -> None:
    """What looks foreign then may have been agreed on: it waits, unrecorded, for the scan after."""
    world = removing(zone)
    await world.state.put_note(UNION_NOTE, b"1")
    await world.write(zone, "a", "maybe agreed")
    [synced] = await world.step()
    assert (synced.decision.action, synced.base) == (Action.NOTHING, None)
    assert await world.text(zone, "a") == "maybe agreed"

    await world.state.put_note(UNION_NOTE, b"")
    world.later(60)
    await world.look("a")
    await world.step()
    assert await world.both("a") == (None, None)


async def test_a_delete_in_a_zone_is_undone(zone: Side) -> None:
    """The master's object comes back, whatever the delete's time, and nothing is preserved: nothing was lost."""
    world = World(MODES[zone.other])
    await world.write(zone.other, "a", "master")
    await world.step()
    world.later()
    await world.remove(zone, "a")
    await world.step()

    assert await world.both("a") == ("master", "master")
    assert await world.state.conflicts() == []


@pytest.mark.parametrize("what", ["write", "delete"])
async def test_a_writer_who_keeps_writing_in_a_zone_is_reverted_a_few_times_and_then_reported(zone: Side, what: str) -> None:
    """No endless duel and no endless copies: past revert_limit the key is parked as it is, and the next hour begins anew."""
    world = World(MODES[zone.other])
    await world.write(zone.other, "a", "master")
    await world.step()
    for number in range(world.ctx.revert_limit):
        await _contest(world, zone, what, number)
        await world.step()
        assert await world.both("a") == ("master", "master")
    await _contest(world, zone, what, 99)
    with pytest.raises(Park) as told:
        await world.step()
    assert (told.value.reason, told.value.side) == ("revert_limit", zone)
    copies = len(await world.state.conflicts())
    assert copies == (world.ctx.revert_limit if what == "write" else 0)

    await world.crash()
    world.later(3600)
    await world.step()
    assert await world.both("a") == ("master", "master")


async def test_a_writer_who_keeps_creating_a_foreign_object_is_stopped_likewise(zone: Side) -> None:
    """Removal is an undoing too: past the limit the object stays, and only so many copies were made."""
    world = removing(zone)
    for number in range(world.ctx.revert_limit):
        world.later()
        await world.write(zone, "a", f"foreign {number}")
        await world.step()
        assert await world.both("a") == (None, None)
    world.later()
    await world.write(zone, "a", "foreign again")
    with pytest.raises(Park, match="read-only"):
        await world.step()
    assert await world.text(zone, "a") == "foreign again"
    assert len(await world.state.conflicts()) == world.ctx.revert_limit


async def _contest(world: World, zone: Side, what: str, number: int) -> None:
    world.later()
    if what == "write":
        await world.write(zone, "a", f"foreign {number}")
    else:
        await world.remove(zone, "a")


async def test_the_same_revert_tried_again_is_counted_once(zone: Side) -> None:
    """A revert that fails half way, as often as it may, does not use up the key's limit."""
    world = World(MODES[zone.other])
    world.ctx = dataclasses.replace(world.ctx, revert_limit=1)
    await world.write(zone.other, "a", "master")
    await world.step()
    world.later()
    await world.write(zone, "a", "foreign")
    for _ in range(3):
        name = (await world.raw[zone].head("a")).version
        stamp = f"{name.etag}@{name.modified.at_us}"
        now = world.clock.now_us()
        assert await world.state.reserve_revert("a", stamp, limit=1, window_seconds=3600, now_us=now)
    await world.step()
    assert await world.both("a") == ("master", "master")


async def test_a_person_s_retry_is_not_limited(zone: Side) -> None:
    """An operator who has stopped the writer gets the key put back at once."""
    world = World(MODES[zone.other])
    world.ctx = dataclasses.replace(world.ctx, revert_limit=1)
    await world.write(zone.other, "a", "master")
    await world.step()
    for number in range(2):
        await _contest(world, zone, "write", number)
        if number == 0:
            await world.step()
    await world.state.mark([Change("a", side, Source.OPERATOR) for side in Side])
    await world.step()
    assert await world.both("a") == ("master", "master")
