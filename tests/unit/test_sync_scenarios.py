"""Whole keys through the real engine: put, deliver, settle, look at both sides. Stores and state are the in-memory twins."""

from __future__ import annotations

import dataclasses

import pytest

from federation.errors import RetryLater
from federation.model import Change, Metadata, Mode, Side, Source, Stamp, StampOrigin
from federation.ports import Lease
from federation.rules.decision import Action, Reason, Rules
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from federation.sync.apply import DeleteHeld
from federation.sync.budget import ByteBudget
from federation.sync.context import DeleteBudget, PairContext
from federation.sync.paced_store import PacedStore, Tally, tally
from federation.sync.pacing import Gate
from federation.sync.sync_key import NotQuiet, Synced, sync_key
from federation.sync.transfer import Transfer, TransferLimits

SECOND = 1_000_000


class FakeClock:
    """Virtual time that moves only when told."""

    def __init__(self) -> None:
        self.us = 1_700_000_000 * SECOND

    def now_us(self) -> int:
        """Wall clock."""
        return self.us

    def monotonic_seconds(self) -> float:
        """The same."""
        return self.us / SECOND

    async def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.us += int(seconds * SECOND)


class World:
    """Two sides, a state and a worker's hands, one shard."""

    def __init__(self, mode: Mode = Mode.TWO_WAY, **rules: object) -> None:
        self.clock = FakeClock()
        self.raw = {side: MemoryStore(side, clock=self.clock) for side in Side}
        self.state = MemoryState("pair", shards=1, clock=self.clock)
        limits = TransferLimits(small_object_bytes=64, part_bytes=32, parallel_parts=2)
        self.ctx = PairContext(
            name="pair",
            stores={side: PacedStore(store, Gate(side, self.clock)) for side, store in self.raw.items()},
            state=self.state,
            clock=self.clock,
            transfer=Transfer(limits, ByteBudget(1 << 30)),
            rules=dataclasses.replace(Rules(mode=mode), **rules),  # type: ignore[arg-type]
            delete_budget=DeleteBudget(count=1000, share=1.0, window_seconds=600),
            quiet_us=5 * SECOND,
        )
        self.lease: Lease | None = None
        self.requests = 0

    async def write(self, side: Side, key: str, text: str, *, told: bool = True, metadata: Metadata | None = None) -> str:
        """A user writes; unless told=False the event is delivered (a mark, as sources make it)."""
        store = self.raw[side]
        try:
            expected = (await store.head(key)).version.etag
        except Exception:  # noqa: BLE001 - a user does not care why
            expected = None
        result = await store.put(key, text.encode(), metadata or Metadata(), stamp=None, expected_etag=expected)
        if told:
            await self.tell(side, key, etag=result.etag)
        return result.etag

    async def remove(self, side: Side, key: str, *, told: bool = True) -> None:
        """A user deletes."""
        await self.raw[side].delete(key, expected_etag=(await self.raw[side].head(key)).version.etag)
        if told:
            await self.tell(side, key, deleted=True)

    async def tell(self, side: Side, key: str, *, etag: str | None = None, deleted: bool = False) -> None:
        """Deliver an event."""
        at = Stamp(self.clock.us, 1, StampOrigin.EVENT)
        source = Source.EVENT_GRID if side is Side.BLOB else Source.VAST_EVENTS
        await self.state.mark([Change(key, side, source, etag=etag, deleted=deleted, at=at)])

    async def look(self, key: str) -> None:
        """What a scan does that found both sides worth a look."""
        await self.state.mark([Change(key, side, Source.RECONCILER) for side in Side])

    async def step(self) -> list[Synced]:
        """Work on everything due once, as the worker does; errors propagate."""
        if self.lease is None:
            self.lease = await self.state.acquire(0, owner="test", ttl_seconds=1e9)
        assert self.lease is not None
        done = []
        for claim in await self.state.claim(self.lease, limit=100, now_us=self.clock.us):
            cost = Tally()
            tally.set(cost)
            synced = await sync_key(self.ctx, self.lease, claim)
            await self.state.settle(self.lease, claim.hint.key, claim.hint.generation, synced.base)
            self.requests += cost.requests
            done.append(synced)
        return done

    async def text(self, side: Side, key: str) -> str | None:
        """Content now, None when absent."""
        from federation.errors import NotPresent  # noqa: PLC0415

        try:
            reader = await self.raw[side].open(key)
        except NotPresent:
            return None
        return (await reader.read()).decode()

    async def both(self, key: str) -> tuple[str | None, str | None]:
        """Content on Blob and on VAST."""
        return await self.text(Side.BLOB, key), await self.text(Side.VAST, key)

    async def crash(self) -> None:
        """The worker dies: what it had claimed comes back to the next holder of the shard."""
        assert self.lease is not None
        await self.state.release(self.lease)
        self.lease = None

    def later(self, seconds: float = 10) -> None:
        """Time passes."""
        self.clock.us += int(seconds * SECOND)


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


async def test_an_overwrite_travels_in_two_requests(side: Side) -> None:
    """With a base the other side's version is assumed and proved by the condition."""
    world = World()
    await world.write(side, "a", "one")
    await world.step()
    world.later()
    await world.write(side, "a", "two")
    world.requests = 0
    await world.step()

    assert await world.both("a") == ("two", "two")
    assert world.requests == 2


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
    assert world.requests == 2
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
