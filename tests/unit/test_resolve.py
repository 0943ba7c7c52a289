"""A person's word on a conflict, through the real engine over the in-memory twins."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from federation.errors import NotPresent, Reobserve, RetryLater, UsageError
from federation.model import Change, Metadata, Mode, Side, Source, Stamp, StampOrigin
from federation.progress import ConflictRecord, DeleteBudget, Lease, TransferRecord
from federation.rules.decision import Rules
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.context import PairContext
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import Gate
from federation.sync.resolve import Verdict, resolve, visible_key
from federation.sync.sync_key import sync_key
from federation.sync.transfer import Transfer, TransferLimits
from tests.unit.world import SECOND, FakeClock


class World:
    """Two sides, one shard, and a conflict to judge."""

    def __init__(self, mode: Mode = Mode.TWO_WAY) -> None:
        self.clock = FakeClock()
        self.sides = {side: MemoryStore(side, clock=self.clock) for side in Side}
        self.state = MemoryState("pair", shards=1, clock=self.clock)
        self.ctx = PairContext(
            name="pair",
            stores={side: PacedStore(store, Gate(side, self.clock)) for side, store in self.sides.items()},
            state=self.state,
            clock=self.clock,
            transfer=Transfer(TransferLimits(small_object_bytes=64, part_bytes=32, parallel_parts=2), ByteBudget(1 << 30)),
            rules=Rules(mode=mode),
            delete_budget=DeleteBudget(count=1000, share=1.0, window_seconds=600),
            quiet_us=0,
        )
        self.lease: Lease | None = None

    async def write(self, side: Side, text: str, *, key: str = "a.txt", metadata: Metadata | None = None) -> None:
        """A user writes and the event is delivered."""
        self.clock.us += 10 * SECOND
        held = self.sides[side].objects.get(key)
        expected = held.etag if held is not None else None
        result = await self.sides[side].put(key, text.encode(), metadata or Metadata(), stamp=None, expected_etag=expected)
        await self.tell(Change(key, side, Source.EVENT_GRID, etag=result.etag))

    async def describe(self, side: Side, colour: str) -> None:
        """A user changes metadata only."""
        self.clock.us += 10 * SECOND
        etag = self.sides[side].objects["a.txt"].etag
        changed = Metadata(user=(("colour", colour),))
        result = await self.sides[side].replace_metadata("a.txt", changed, stamp=None, expected_etag=etag)
        await self.tell(Change("a.txt", side, Source.EVENT_GRID, etag=result.etag))

    async def remove(self, side: Side) -> None:
        """A user deletes."""
        self.clock.us += 10 * SECOND
        await self.sides[side].delete("a.txt", expected_etag=self.sides[side].objects["a.txt"].etag)
        await self.tell(Change("a.txt", side, Source.EVENT_GRID, deleted=True))

    async def tell(self, change: Change) -> None:
        """The event arrives."""
        at = Stamp(self.clock.us, 1, StampOrigin.EVENT)
        await self.state.mark([Change(change.key, change.side, change.source, change.etag, change.deleted, at)])

    async def work(self) -> None:
        """Work until nothing is due, late enough that every file is quiet."""
        self.clock.us += 10 * SECOND
        if self.lease is None:
            self.lease = await self.state.acquire(0, owner="test", ttl_seconds=1e9)
        assert self.lease is not None
        while claims := await self.state.claim(self.lease, limit=100, now_us=self.clock.us):
            for claim in claims:
                synced = await sync_key(self.ctx, self.lease, claim)
                await self.state.settle(self.lease, claim.hint.key, claim.hint.generation, synced.base)

    async def conflict(self) -> ConflictRecord:
        """The one open conflict."""
        [record] = await self.state.conflicts()
        return record

    async def judge(self, record: ConflictRecord, verdict: Verdict) -> str:
        """A person decides, some time later."""
        self.clock.us += 10 * SECOND
        return await resolve(self.ctx, self.state, record, verdict)

    def text(self, side: Side, key: str = "a.txt") -> str | None:
        """Content now, None when absent."""
        held = self.sides[side].objects.get(key)
        return held.data.decode() if held is not None else None

    def both(self, key: str = "a.txt") -> tuple[str | None, str | None]:
        """Content on Blob and on VAST."""
        return self.text(Side.BLOB, key), self.text(Side.VAST, key)

    def copies(self) -> list[str]:
        """What is kept for conflicts, on either side."""
        return [key for store in self.sides.values() for key in store.objects if key.startswith(".federation/")]


@pytest.fixture(params=list(Side), ids=lambda side: f"{side}_lost")
def loser(request: pytest.FixtureRequest) -> Side:
    """The side whose version lost."""
    chosen: Side = request.param
    return chosen


async def fought(loser: Side, *, text: str = "early", mode: Mode = Mode.TWO_WAY) -> tuple[World, ConflictRecord]:
    """A conflict that side lost, its bytes kept there."""
    world = World(mode)
    await world.write(loser.other, "base")
    await world.work()
    await world.write(loser, text, metadata=Metadata(content_type="text/early"))
    await world.write(loser.other, "late")
    await world.work()
    assert world.both() == ("late", "late")
    return world, await world.conflict()


@pytest.mark.parametrize("text", ["early", "early" * 100], ids=["small", "in_parts"])
async def test_the_other_version_becomes_current_on_both_sides(loser: Side, text: str) -> None:
    """Content and metadata of the loser come back, nothing stays behind, and it is no new conflict."""
    world, record = await fought(loser, text=text)
    assert await world.judge(record, Verdict.OTHER) == "a.txt"
    await world.work()

    assert world.both() == (text, text)
    assert {store.objects["a.txt"].metadata.content_type for store in world.sides.values()} == {"text/early"}
    assert await world.state.conflicts() == []
    assert world.copies() == []


@pytest.mark.parametrize("cancelled", [False, True], ids=["done", "cancelled"])
async def test_a_large_version_is_on_record_while_it_is_written_back(loser: Side, cancelled: bool) -> None:
    """A command that is killed leaves an upload known to be ours; one that ends or is interrupted leaves none, and no record."""
    world, record = await fought(loser, text="early" * 100)
    store, sending, noted = world.sides[loser], asyncio.Event(), []

    async def hook(call: str, key: str) -> None:
        if call == "put_part" and key == "a.txt":
            noted.append((await world.state.notes("upload:"), list(store.uploads)))
            sending.set()
            await asyncio.sleep(3600 if cancelled else 0)

    store._hook = hook
    judging = asyncio.create_task(world.judge(record, Verdict.OTHER))
    await sending.wait()
    if cancelled:
        judging.cancel()
    await asyncio.wait([judging])
    assert judging.cancelled() is cancelled
    [told], [upload_id] = noted[0][0].values(), noted[0][1]
    assert msgspec.json.decode(told, type=TransferRecord) == TransferRecord("a.txt", loser, upload_id, "", world.clock.us)
    assert (await world.state.notes("upload:"), store.uploads) == ({}, {})


@pytest.mark.parametrize("text", ["early", "early" * 100], ids=["small", "in_parts"])
async def test_what_changed_while_the_loser_was_read_is_not_written_over(text: str) -> None:
    """Metadata on VAST, which moves no ETag: the command says that the object changed, and the conflict stays."""
    world, record = await fought(Side.VAST, text=text)
    store = world.sides[Side.VAST]

    async def hook(call: str, key: str) -> None:
        if call == "open" and key != "a.txt":
            store._hook = None
            await world.describe(Side.VAST, "red")

    store._hook = hook
    with pytest.raises(Reobserve, match="changed since it was looked at"):
        await world.judge(record, Verdict.OTHER)
    assert world.text(Side.VAST) == "late"
    assert store.objects["a.txt"].metadata.user == (("colour", "red"),)
    assert await world.state.conflicts()


async def test_keeping_both_gives_the_loser_a_name_on_both_sides(loser: Side) -> None:
    """The winner stays where it is; beside it stands the loser, carried over like any new object."""
    world, record = await fought(loser)
    beside = await world.judge(record, Verdict.KEEP_BOTH)
    await world.work()

    assert beside == visible_key(record)
    assert world.both() == ("late", "late")
    assert world.both(beside) == ("early", "early")
    assert await world.state.conflicts() == []
    assert world.copies() == []


async def test_dropping_deletes_the_copy_and_changes_nothing_else(loser: Side) -> None:
    """No key is touched, none is dirty."""
    world, record = await fought(loser)
    assert await world.judge(record, Verdict.DROP) == ""

    assert (await world.state.backlog()).dirty == 0
    assert world.both() == ("late", "late")
    assert await world.state.conflicts() == []
    assert world.copies() == []


async def test_an_edit_that_lost_against_a_delete_comes_back(loser: Side) -> None:
    """Taking the other one where nothing is there now creates it again on both sides."""
    world = World()
    await world.write(loser, "base")
    await world.work()
    await world.write(loser, "edit")
    await world.remove(loser.other)
    await world.work()
    assert world.both() == (None, None)

    await world.judge(await world.conflict(), Verdict.OTHER)
    await world.work()
    assert world.both() == ("edit", "edit")
    assert await world.state.conflicts() == []


async def metadata_fought(loser: Side) -> tuple[World, ConflictRecord]:
    """Only metadata was changed on both sides, and that side's lost."""
    world = World()
    await world.write(loser.other, "base")
    await world.work()
    await world.describe(loser, "red")
    await world.describe(loser.other, "blue")
    await world.work()
    return world, await world.conflict()


def colours(world: World) -> set[tuple[tuple[str, str], ...]]:
    """User metadata on both sides."""
    return {store.objects["a.txt"].metadata.user for store in world.sides.values()}


async def test_metadata_that_lost_is_kept_in_the_record_and_comes_back(loser: Side) -> None:
    """No bytes were copied for it and none move now."""
    world, record = await metadata_fought(loser)
    assert (record.preserved_as, colours(world)) == ("", {(("colour", "blue"),)})

    await world.judge(record, Verdict.OTHER)
    await world.work()
    assert colours(world) == {(("colour", "red"),)}
    assert world.both() == ("base", "base")
    assert await world.state.conflicts() == []


async def test_of_metadata_there_are_no_two_to_keep(loser: Side) -> None:
    """Refused with what to do instead; the record stays."""
    world, record = await metadata_fought(loser)
    with pytest.raises(UsageError, match="--take other or --take drop"):
        await world.judge(record, Verdict.KEEP_BOTH)
    assert await world.state.conflicts() == [record]

    assert await world.judge(record, Verdict.DROP) == ""
    assert await world.state.conflicts() == []


async def test_metadata_of_an_object_that_is_gone_cannot_come_back(loser: Side) -> None:
    """There is nothing to put it on: refused, and the record stays."""
    world, record = await metadata_fought(loser)
    await world.remove(loser)
    await world.work()
    with pytest.raises(UsageError) as caught:
        await world.judge(record, Verdict.OTHER)
    assert caught.value.reason == "conflict_gone"
    assert await world.state.conflicts() == [record]


@pytest.mark.parametrize("verdict", [Verdict.OTHER, Verdict.KEEP_BOTH])
async def test_a_copy_that_somebody_removed_cannot_come_back_but_its_record_can_be_dropped(loser: Side, verdict: Verdict) -> None:
    """The text says so; nothing is written."""
    world, record = await fought(loser)
    del world.sides[loser].objects[record.preserved_as]
    with pytest.raises(UsageError) as caught:
        await world.judge(record, verdict)
    assert caught.value.reason == "copy_gone"
    assert world.both() == ("late", "late")
    assert await world.state.conflicts() == [record]

    await world.judge(record, Verdict.DROP)
    assert await world.state.conflicts() == []


@pytest.mark.parametrize(("verdict", "call"), [(Verdict.OTHER, "put"), (Verdict.KEEP_BOTH, "copy")])
async def test_a_word_repeated_after_a_fault_finds_its_work_done(loser: Side, verdict: Verdict, call: str) -> None:
    """The answer to its write was lost: the same command again ends in the same place, once."""
    world, record = await fought(loser)
    world.sides[loser].fail_next(call, RetryLater("cut", reason="unreachable"), after_effect=True)
    with pytest.raises(RetryLater):
        await world.judge(record, verdict)
    assert await world.state.conflicts() == [record]
    await world.judge(record, verdict)
    await world.work()

    assert world.both() == (("early", "early") if verdict is Verdict.OTHER else ("late", "late"))
    assert await world.state.conflicts() == []
    assert world.copies() == []
    assert len(world.sides[loser].objects) == (1 if verdict is Verdict.OTHER else 2)


@pytest.mark.parametrize("verdict", [Verdict.OTHER, Verdict.KEEP_BOTH])
async def test_cut_short_at_the_very_end_only_the_record_is_left(loser: Side, verdict: Verdict) -> None:
    """The copy is gone and its work done: a repeat says so and writes nothing, and the record can be dropped."""
    world, record = await fought(loser)
    world.sides[loser].fail_next("delete", RetryLater("cut", reason="unreachable"), after_effect=True)
    with pytest.raises(RetryLater):
        await world.judge(record, verdict)
    with pytest.raises(UsageError, match="resolved before and cut short"):
        await world.judge(record, verdict)
    await world.judge(record, Verdict.DROP)
    await world.work()

    assert world.both() == (("early", "early") if verdict is Verdict.OTHER else ("late", "late"))
    assert await world.state.conflicts() == []
    assert world.copies() == []


async def test_a_write_in_between_is_not_overwritten(loser: Side) -> None:
    """The person decided about what was there; a newer version refuses the write and everything stays."""
    world, record = await fought(loser)
    store = world.sides[loser]

    async def meanwhile(call: str, key: str) -> None:
        if (call, key) == ("open", record.preserved_as):
            store._hook = None
            await world.write(loser, "newer")

    store._hook = meanwhile
    with pytest.raises(Reobserve):
        await world.judge(record, Verdict.OTHER)
    await world.work()

    assert world.both() == ("newer", "newer")
    assert await world.state.conflicts() == [record]
    assert world.text(loser, record.preserved_as) == "early"


@pytest.mark.parametrize("text", ["early", "early" * 100], ids=["small", "in_parts"])
async def test_what_was_undone_in_a_zone_can_be_taken_by_its_master(loser: Side, text: str) -> None:
    """A read-only zone would undo it again: the master is given the version, and both sides hold it."""
    world = World(Mode.VAST_MASTER if loser is Side.BLOB else Mode.BLOB_MASTER)
    await world.write(loser.other, "master")
    await world.work()
    await world.write(loser, text)
    await world.work()
    assert world.both() == ("master", "master")

    assert await world.judge(await world.conflict(), Verdict.OTHER) == "a.txt"
    await world.work()
    assert world.both() == (text, text)
    assert await world.state.conflicts() == []
    assert world.copies() == []


async def test_metadata_undone_in_a_zone_can_be_taken_by_its_master(loser: Side) -> None:
    """What a zone's user wrote is kept, be it only metadata, and can be taken."""
    world = World(Mode.VAST_MASTER if loser is Side.BLOB else Mode.BLOB_MASTER)
    await world.write(loser.other, "master")
    await world.work()
    await world.describe(loser, "red")
    await world.work()
    assert colours(world) == {()}

    await world.judge(await world.conflict(), Verdict.OTHER)
    await world.work()
    assert colours(world) == {(("colour", "red"),)}
    assert await world.state.conflicts() == []


@pytest.mark.parametrize(
    ("key", "visible"),
    [
        ("a.txt", "a.conflict-vast-01234567.txt"),
        ("dir.d/a", "dir.d/a.conflict-vast-01234567"),
        ("dir/a.tar.gz", "dir/a.tar.conflict-vast-01234567.gz"),
        ("dir/.hidden", "dir/.hidden.conflict-vast-01234567"),
        ("a.", "a.conflict-vast-01234567."),
    ],
)
def test_the_visible_name_keeps_folder_and_extension(key: str, visible: str) -> None:
    """So that programs still know what it is."""
    record = ConflictRecord("0123456789abcdef", key, Side.BLOB, Side.VAST, "tie", 0, "w", "l", 0, 0, 1, "kept")
    assert visible_key(record) == visible


async def test_an_unreachable_side_changes_nothing(loser: Side) -> None:
    """The error goes up and the record stays."""
    world, record = await fought(loser)
    world.sides[loser].fail_next("head", RetryLater("503", reason="throttled"))
    with pytest.raises(RetryLater):
        await world.judge(record, Verdict.DROP)
    assert await world.state.conflicts() == [record]
    with pytest.raises(NotPresent):
        await world.sides[loser.other].head(record.preserved_as)
