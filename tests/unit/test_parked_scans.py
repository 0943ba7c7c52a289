"""A whole scan tries again what was parked before it, also where no listing tells of a difference."""

from __future__ import annotations

import pytest

from federation.model import Side
from federation.state.damaged import DAMAGED
from reconciler.report import Report
from reconciler.scan import Scanner
from tests.unit.world import SECOND, World

DAY_US = 86_400 * SECOND


async def _park(world: World, key: str, reason: str) -> None:
    """As the worker does it with what it has claimed."""
    await world.tell(Side.BLOB, key)
    if world.lease is None:
        world.lease = await world.state.acquire(0, owner="test", ttl_seconds=1e9)
    assert world.lease is not None
    [claim] = await world.state.claim(world.lease, limit=9, now_us=world.clock.us)
    await world.state.park(world.lease, key, claim.hint.generation, reason=reason, detail="", now_us=world.clock.us)
    world.later(60)


async def _scan(world: World, prefix: str = "") -> Report:
    scanner = Scanner(dict(world.raw), world.state, world.state, world.clock, quiet_us=0, tombstone_us=30 * DAY_US)
    report = await scanner.scan(prefix=prefix)
    assert report.complete
    return report


async def _parked(world: World) -> list[str]:
    return [one.key for one in await world.state.parked()]


@pytest.mark.parametrize("agreed", [False, True], ids=["never on both", "agreed before"])
async def test_what_is_gone_from_both_sides_is_clean_after_the_next_whole_scan(*, agreed: bool) -> None:
    """Renamed by its user: the old name is in no listing, and not parked for ever."""
    world = World()
    await world.write(Side.BLOB, "a", "text")
    if agreed:
        await world.step()
        await world.remove(Side.VAST, "a", told=False)
    await _park(world, "a", "unrepresentable")
    await world.remove(Side.BLOB, "a", told=False)
    report = await _scan(world)
    assert await _parked(world) == []
    await world.step()
    hint, base, parked, held = await world.state.explain("a")
    assert (hint, parked, held) == (None, None, None)
    assert base is None or base.deleted
    assert agreed or report.tried_again == 1
    assert (await _scan(world)).tried_again == 0


async def test_new_tags_that_were_parked_arrive_after_the_next_whole_scan() -> None:
    """They move neither ETag nor time, so that the row is as agreed; the lease that held them is over."""
    world = World()
    for raw in world.raw.values():
        raw.map_tags = True
    await world.write(Side.VAST, "a", "text")
    world.later(60)  # its time is past when it is looked at, so that the row is no news afterwards
    await world.step()
    await world.raw[Side.VAST].write_tags("a", {"project": "x"})
    await _park(world, "a", "leased")
    report = await _scan(world)
    assert (report.in_step, report.tried_again, report.marked) == (1, 1, 0)
    await world.step()
    assert await world.raw[Side.BLOB].read_tags("a") == (("project", "x"),)
    assert await _parked(world) == []


async def test_what_the_listings_tell_of_is_marked_once() -> None:
    """A parked key that differs is marked for its difference; the end of the scan finds it no longer parked."""
    world = World()
    await world.write(Side.BLOB, "a", "text")
    await _park(world, "a", "leased")
    report = await _scan(world)
    assert (report.marked, report.tried_again) == (1, 0)


async def test_what_no_look_makes_better_and_what_was_parked_meanwhile_stays() -> None:
    """A damaged record waits for a person's word; a key that was parked after the scan began was looked at since."""
    world = World()
    await _park(world, "damaged", DAMAGED)
    world.later(3600)
    await _park(world, "later", "leased")
    world.clock.us -= 3600 * SECOND
    assert (await _scan(world)).tried_again == 0
    assert await _parked(world) == ["damaged", "later"]


async def test_a_scan_of_a_prefix_leaves_what_is_parked() -> None:
    """It is asked for often, and says nothing of the whole pair."""
    world = World()
    await _park(world, "a", "leased")
    assert (await _scan(world, prefix="a")).tried_again == 0
    assert await _parked(world) == ["a"]


async def test_what_is_parked_was_not_missed_by_events() -> None:
    """Its event came; what stands in the way of the change is another matter, and is told by the parked key itself."""
    world = World()
    await world.write(Side.BLOB, "a", "text")
    await _park(world, "a", "name_too_long")
    for _ in range(2):
        report = await _scan(world)
        assert (report.in_flight, report.missed_by_events[Side.BLOB]) == (1, 0)
        await _park(world, "a", "name_too_long")
