"""Whole keys through the real engine when workers die, answers get lost, budgets end and state is gone."""

from __future__ import annotations

import dataclasses

import pytest

from federation.errors import RetryLater
from federation.model import Change, Metadata, Mode, Present, Side, Source
from federation.progress import DeleteBudget, Held
from federation.rules.decision import Action, Reason
from federation.sync.apply import DeleteHeld
from federation.sync.sync_key import NotQuiet, sync_key
from tests.unit.world import World


@pytest.fixture(params=list(Side), ids=str)
def side(request: pytest.FixtureRequest) -> Side:
    """The side a user writes on."""
    chosen: Side = request.param
    return chosen


@pytest.mark.parametrize("then", ["nothing", "overwrite", "delete"])
async def test_a_worker_that_dies_between_write_and_settle_makes_no_conflict(side: Side, then: str) -> None:
    """Our own unsettled copy is no second writer, whatever its user does next; the last write holds on both sides."""
    world = World()
    await world.write(side, "a", "one")
    world.lease = await world.state.acquire(0, owner="victim", ttl_seconds=1e9)
    assert world.lease is not None
    [claim] = await world.state.claim(world.lease, limit=10, now_us=world.clock.us)
    await sync_key(world.ctx, world.lease, claim)  # and no settle
    await world.crash()
    world.later()
    if then == "overwrite":
        await world.write(side, "a", "two")
    elif then == "delete":
        await world.remove(side, "a")
    await world.step()
    await world.step()

    expected = {"nothing": "one", "overwrite": "two", "delete": None}[then]
    assert await world.both("a") == (expected, expected)
    assert await world.state.conflicts() == []


@pytest.mark.parametrize("then", ["overwrite", "delete"])
async def test_the_same_holds_for_a_key_that_was_agreed_before(side: Side, then: str) -> None:
    """With a base the origin stamp alone tells our unsettled copy from a user's write."""
    world = World()
    await world.write(side, "a", "zero")
    await world.step()
    world.later()
    await world.write(side, "a", "one")
    assert world.lease is not None
    [claim] = await world.state.claim(world.lease, limit=10, now_us=world.clock.us)
    await sync_key(world.ctx, world.lease, claim)
    await world.crash()
    world.later()
    if then == "overwrite":
        await world.write(side, "a", "two")
    else:
        await world.remove(side, "a")
    await world.step()
    await world.step()

    expected = "two" if then == "overwrite" else None
    assert await world.both("a") == (expected, expected)
    assert await world.state.conflicts() == []


async def test_a_user_who_edits_metadata_of_our_copy_is_a_writer(side: Side) -> None:
    """A kept origin stamp does not hide a metadata change made on top of it: the seal covers metadata."""
    world = World()
    await world.write(side, "a", "one")
    await world.step()
    world.later()
    ours = await world.raw[side.other].head("a")
    changed = Metadata(user=(("note", "mine"),))
    await world.raw[side.other].replace_metadata("a", changed, stamp=ours.origin, expected_etag=ours.version.etag)
    await world.tell(side.other, "a", etag=(await world.raw[side.other].head("a")).version.etag)
    await world.step()

    assert (await world.raw[side].head("a")).metadata == changed


async def test_a_young_file_is_not_read_before_it_is_quiet() -> None:
    """A VAST version no event vouches for waits until it has been unchanged for the quiet period."""
    world = World()
    await world.write(Side.VAST, "nfs", "half", told=False)
    await world.state.mark([Change("nfs", Side.VAST, Source.RECONCILER)])
    with pytest.raises(NotQuiet):
        await world.step()

    assert await world.both("nfs") == (None, "half")
    await world.crash()
    world.later(7)
    await world.step()
    assert await world.both("nfs") == ("half", "half")


async def test_deletes_past_the_budget_are_held() -> None:
    """The delete that would exceed the budget raises and nothing is deleted."""
    world = World()
    world.ctx = dataclasses.replace(world.ctx, delete_budget=DeleteBudget(count=1, share=1.0, window_seconds=600))
    for key in ("a", "b"):
        await world.write(Side.BLOB, key, key)
    await world.step()
    world.later()
    for key in ("a", "b"):
        await world.remove(Side.BLOB, key)
    with pytest.raises(DeleteHeld):
        await world.step()

    assert [await world.text(Side.VAST, key) for key in ("a", "b")].count(None) == 1


@pytest.mark.parametrize("mode", [Mode.BLOB_MASTER, Mode.VAST_MASTER])
async def test_a_write_in_a_read_only_zone_is_kept_and_reverted(mode: Mode) -> None:
    """The master's version comes back and the foreign bytes can be read back."""
    world = World(mode)
    master = Side.BLOB if mode is Mode.BLOB_MASTER else Side.VAST
    await world.write(master, "a", "master")
    await world.step()
    world.later()
    await world.write(master.other, "a", "foreign")
    await world.step()

    assert await world.both("a") == ("master", "master")
    [record] = await world.state.conflicts()
    assert await world.text(master.other, record.preserved_as) == "foreign"


async def test_a_throttled_side_loses_nothing(side: Side) -> None:
    """A 503 in the middle leaves the key dirty and the next try finishes."""
    world = World()
    await world.write(side, "a", "one")
    world.raw[side.other].fail_next("put", RetryLater("503", reason="throttled", after_seconds=1))
    with pytest.raises(RetryLater):
        await world.step()

    await world.crash()
    world.later(2)
    await world.step()
    assert await world.both("a") == ("one", "one")


async def test_a_write_whose_answer_is_lost_is_found_again(side: Side) -> None:
    """The write took effect and its answer did not come: the repeat finds our own copy and writes nothing."""
    world = World()
    await world.write(side, "a", "one")
    world.raw[side.other].fail_next("put", RetryLater("cut", reason="unreachable"), after_effect=True)
    with pytest.raises(RetryLater):
        await world.step()

    await world.crash()
    world.later(2)
    [synced] = await world.step()
    assert synced.decision.action in (Action.ADOPT, Action.NOTHING)
    assert await world.both("a") == ("one", "one")
    assert await world.state.conflicts() == []


async def test_a_lost_state_deletes_nothing_and_moves_no_bytes() -> None:
    """After Redis was emptied, equal objects are adopted and one-sided ones copied, never deleted."""
    world = World()
    for key in ("a", "b"):
        await world.write(Side.BLOB, key, key)
    await world.step()
    await world.remove(Side.BLOB, "b", told=False)
    world.later()
    fresh = World()
    fresh.clock, fresh.raw = world.clock, world.raw
    fresh.ctx = dataclasses.replace(fresh.ctx, stores=world.ctx.stores, clock=world.clock)
    for key in ("a", "b"):
        await fresh.look(key)
    synced = {claimed.decision.action for claimed in await fresh.step()}

    assert synced == {Action.ADOPT, Action.COPY}
    assert await fresh.both("b") == ("b", "b")


async def test_a_held_delete_stays_held_whatever_time_and_scans_bring() -> None:
    """Told of again and with a new window's budget, it still waits for a person (rule 8); a person's word then carries it out."""
    world = World()
    world.ctx = dataclasses.replace(world.ctx, delete_budget=DeleteBudget(count=1, share=1.0, window_seconds=60))
    for key in ("a", "b"):
        await world.write(Side.BLOB, key, key)
    await world.step()
    world.later()
    for key in ("a", "b"):
        await world.remove(Side.BLOB, key)
    held = []
    for _ in range(3):
        for key in ("a", "b"):
            await world.tell(Side.BLOB, key, etag=None, deleted=True)
        held.append(await _work_and_hold(world))
        world.later(3600)
    assert held[0] == held[1] == held[2]
    assert len(held[0]) == 1
    assert await world.both(held[0][0]) == (None, held[0][0])


async def test_a_released_delete_is_as_late_as_its_event_said() -> None:
    """A delete that beat an older edit and was held is carried out on a person's word, though its event is long gone."""
    world = World()
    world.ctx = dataclasses.replace(world.ctx, delete_budget=DeleteBudget(count=0, share=1.0, window_seconds=60))
    await world.write(Side.BLOB, "a", "one")
    await world.step()
    world.later()
    await world.write(Side.VAST, "a", "two")
    world.later(60)
    await world.remove(Side.BLOB, "a")
    assert await _work_and_hold(world) == ["a"]
    await world.look("a")
    assert await _work_and_hold(world) == ["a"]

    await world.state.judge(["a"], verdict="released", now_us=world.clock.now_us())
    [synced] = await world.step()
    assert synced.decision.reason is Reason.DELETE_BEATS_EDIT
    assert await world.both("a") == (None, None)
    [record] = await world.state.conflicts()
    assert await world.text(Side.VAST, record.preserved_as) == "two"


async def _work_and_hold(world: World) -> list[str]:
    """One pass of a worker over what is dirty; the keys that are held after it."""
    lease = await world.state.acquire(0, owner="t", ttl_seconds=60) or world.lease
    assert lease is not None
    world.lease = None
    for claim in await world.state.claim(lease, limit=10, now_us=world.clock.now_us()):
        try:
            synced = await sync_key(world.ctx, lease, claim)
        except DeleteHeld as wait:
            held = Held(claim.hint.key, wait.delete_on, "delete_budget", world.clock.now_us(), deleted=wait.deleted)
            await world.state.hold(lease, claim.hint.key, claim.hint.generation, held)
        else:
            await world.state.settle(lease, claim.hint.key, claim.hint.generation, synced.base)
    await world.state.release(lease)
    return [one.key for one in await world.state.held()]


async def test_sides_equal_at_different_moments_are_not_agreed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the looks at Blob and at VAST both users write: the last write holds, though what was seen was equal."""
    world = World()
    await world.write(Side.BLOB, "a", "same")
    await world.write(Side.VAST, "a", "first")
    look = world.raw[Side.VAST].head

    async def meanwhile(key: str) -> Present:
        monkeypatch.undo()
        await world.write(Side.BLOB, "a", "second")
        world.later(2)
        await world.write(Side.VAST, "a", "same")
        world.later(10)
        return await look(key)

    monkeypatch.setattr(world.raw[Side.VAST], "head", meanwhile)
    await world.step()
    world.later()
    await world.step()

    assert await world.both("a") == ("same", "same")
