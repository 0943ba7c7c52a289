"""Whole keys through the real engine: put, deliver, settle, look at both sides. Stores and state are the in-memory twins."""

from __future__ import annotations

import pytest

from federation.model import Metadata, Side
from federation.rules.decision import Action, Reason
from tests.unit.world import World


@pytest.fixture(params=list(Side), ids=str)
def side(request: pytest.FixtureRequest) -> Side:
    """The side a user writes on."""
    chosen: Side = request.param
    return chosen


async def test_a_new_object_travels_in_two_requests_and_its_echo_costs_none(side: Side) -> None:
    """One GET, one conditional PUT; the event of our own write settles without a request."""
    world = World()
    await world.write(side, "a", "one")
    [synced] = await world.step()

    assert (synced.decision.action, synced.decision.source) == (Action.COPY, side)
    assert await world.both("a") == ("one", "one")
    assert world.requests == 2

    etag = (await world.raw[side.other].head("a")).version.etag
    await world.tell(side.other, "a", etag=etag)
    await world.step()
    assert world.requests == 2


async def test_an_overwrite_travels_in_few_requests(side: Side) -> None:
    """With a base the other side's version is assumed and proved by the condition; VAST's metadata by a look (ADR 0006)."""
    world = World()
    await world.write(side, "a", "one")
    await world.step()
    world.later()
    await world.write(side, "a", "two")
    world.requests = 0
    await world.step()

    assert await world.both("a") == ("two", "two")
    assert world.requests == (3 if side is Side.BLOB else 2)


async def test_metadata_only_moves_no_content(side: Side) -> None:
    """A metadata change is carried without its bytes."""
    world = World()
    await world.write(side, "a", "one")
    await world.step()
    world.later()
    head = await world.raw[side].head("a")
    changed = Metadata(content_type="text/x", user=(("colour", "blue"),))
    await world.raw[side].replace_metadata("a", changed, stamp=None, expected_etag=head.version.etag)
    await world.tell(side, "a", etag=(await world.raw[side].head("a")).version.etag)
    [synced] = await world.step()

    assert synced.decision.action is Action.METADATA
    assert (await world.raw[side.other].head("a")).metadata == changed


async def test_a_look_at_blob_alone_says_nothing_of_vast() -> None:
    """A stale hint about Blob does not make metadata that changed on VAST meanwhile count as known."""
    world = World()
    await world.write(Side.VAST, "a", "one")
    await world.step()
    world.later()
    head = await world.raw[Side.VAST].head("a")
    changed = Metadata(user=(("colour", "blue"),))
    await world.raw[Side.VAST].replace_metadata("a", changed, stamp=None, expected_etag=head.version.etag)
    world.later()
    await world.tell(Side.BLOB, "a", etag="0xSTALE")
    await world.step()
    modified = (await world.raw[Side.VAST].head("a")).version.modified
    [base] = await world.state.bases(["a"])
    assert base is not None
    assert base.vast_as_of_us < modified.at_us, "a scan would take the new metadata for agreed"


async def test_a_delete_travels_and_leaves_a_tombstone(side: Side) -> None:
    """A confirmed absence is carried as a conditional delete, and its echo is nothing."""
    world = World()
    await world.write(side, "a", "one")
    await world.step()
    world.later()
    await world.remove(side, "a")
    world.requests = 0
    [synced] = await world.step()

    assert synced.decision.action is Action.DELETE
    assert await world.both("a") == (None, None)
    assert world.requests == (3 if side is Side.BLOB else 2)
    assert synced.base is not None
    assert synced.base.deleted
    await world.tell(side.other, "a", deleted=True)
    assert await world.step() == []


async def test_without_a_base_a_missing_object_is_copied_never_deleted(side: Side) -> None:
    """A delete event for a key nobody agreed on brings the object back (rule 4)."""
    world = World()
    await world.write(side, "a", "one", told=False)
    await world.tell(side.other, "a", deleted=True)
    await world.look("a")
    world.later()
    [synced] = await world.step()

    assert synced.decision.action is Action.COPY
    assert await world.both("a") == ("one", "one")


async def test_the_later_of_two_writes_wins_and_the_loser_can_be_read_back(side: Side) -> None:
    """Both sides changed: last writer wins, the other is kept and recorded, whatever order the events come in."""
    world = World()
    await world.write(Side.BLOB, "a", "base")
    await world.step()
    world.later()
    await world.write(side.other, "a", "early")
    world.later()
    await world.write(side, "a", "late")
    [synced] = await world.step()

    assert await world.both("a") == ("late", "late")
    assert synced.decision.reason is Reason.LATER_WRITE
    [record] = await world.state.conflicts()
    assert (record.winner_side, record.loser_side) == (side, side.other)
    assert await world.text(side.other, record.preserved_as) == "early"


async def test_equal_writes_on_both_sides_are_no_conflict() -> None:
    """Proved equality is adopted: no copy, no conflict."""
    world = World()
    await world.write(Side.BLOB, "a", "same")
    await world.write(Side.VAST, "a", "same")
    [synced] = await world.step()

    assert synced.decision.action is Action.ADOPT
    assert await world.state.conflicts() == []


async def test_an_edit_beats_a_delete_of_unknown_time(side: Side) -> None:
    """A scan sees that one side is gone and the other changed: the edit survives."""
    world = World()
    await world.write(side, "a", "one")
    await world.step()
    world.later()
    await world.write(side, "a", "two", told=False)
    await world.remove(side.other, "a", told=False)
    world.later()
    await world.look("a")
    [synced] = await world.step()

    assert synced.decision.reason is Reason.EDIT_BEATS_DELETE
    assert await world.both("a") == ("two", "two")


async def test_a_later_delete_beats_an_edit_and_the_edit_is_kept(side: Side) -> None:
    """With the delete's time known, last writer wins here too; the losing edit is preserved."""
    world = World()
    await world.write(side, "a", "one")
    await world.step()
    world.later()
    await world.write(side, "a", "two")
    world.later()
    await world.remove(side.other, "a")
    await world.step()

    assert await world.both("a") == (None, None)
    [record] = await world.state.conflicts()
    assert await world.text(side, record.preserved_as) == "two"


async def test_a_large_object_moves_in_parts_and_compares_equal(side: Side) -> None:
    """Above the small limit the object streams in parts; content and hash agree."""
    world = World()
    await world.write(side, "big", "x" * 1000)
    await world.step()

    assert await world.both("big") == ("x" * 1000, "x" * 1000)
