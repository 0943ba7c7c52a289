"""What is replaced is looked at right before, however long reading, waiting for memory or a large transfer took (rule 5)."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import weakref
from collections.abc import Awaitable, Callable
from unittest.mock import patch

import pytest

from federation.bandwidth import parse_timetable
from federation.errors import Reobserve, RetryLater
from federation.model import Change, Metadata, Mode, Side, Source
from federation.rules.decision import Action
from federation.sync import transfer
from federation.sync.budget import ByteBudget, Room
from federation.sync.confirm import confirmed_by
from federation.sync.pacing import SMALL_BODY_BYTES, PaceLimits
from federation.sync.resolve import Verdict
from federation.sync.sync_key import Synced
from federation.sync.transfer import Transfer, TransferLimits
from tests.unit.test_resolve import colours, metadata_fought
from tests.unit.world import World

_LIMITS = TransferLimits(small_object_bytes=64, part_bytes=32, parallel_parts=2)
BIG = "b" * 240
PARTS = 8


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object of 60 bytes is one of several MiB."""
    monkeypatch.setattr(transfer, "_UNREAD_BYTES", 16)


class _Scarce(World):
    """Where others hold memory until told to let go."""

    def __init__(self, mode: Mode = Mode.TWO_WAY) -> None:
        super().__init__(mode)
        self.budget = ByteBudget(200)
        self.ctx = dataclasses.replace(self.ctx, transfer=Transfer(_LIMITS, self.budget))
        for store in self.raw.values():
            store.capabilities = dataclasses.replace(store.capabilities, min_part_bytes=1)

    async def edit_on_vast(self, key: str) -> None:
        """A user changes the metadata there; the ETag, a hash of the content, stays."""
        now = await self.raw[Side.VAST].head(key)
        edited = dataclasses.replace(now.metadata, user=(("owner", "ann"),))
        result = await self.raw[Side.VAST].replace_metadata(key, edited, stamp=None, expected_etag=now.version.etag)
        assert result.etag == now.version.etag

    async def waiting(self, bytes_left: int) -> tuple[asyncio.Task[list[Synced]], Room]:
        """A step that waits for memory, and who holds that."""
        held = await self.budget.room(self.budget.total - bytes_left)
        step = asyncio.create_task(self.step())
        for _ in range(50):
            await asyncio.sleep(0)
        assert not step.done()
        return step, held

    async def owners(self) -> list[str]:
        """Where ann's edit is: on the sides, and in conflict copies."""
        found = []
        for side, store in self.raw.items():
            for key in store.objects:
                user = (await store.head(key)).metadata.user
                found += [f"{side} {key}"] if ("owner", "ann") in user else []
        return found


async def test_metadata_changed_while_memory_was_waited_for_is_not_lost() -> None:
    """The object on Blob needs memory that others hold; meanwhile a user edits VAST's version, which is then about to go."""
    world = _Scarce()
    await world.write(Side.BLOB, "a", "x" * 60)
    await world.step()
    world.later(60)
    await world.write(Side.BLOB, "a", "y" * 60)
    step, held = await world.waiting(40)
    await world.edit_on_vast("a")
    world.later(30)
    held.close()
    await step
    assert await world.text(Side.BLOB, "a") == await world.text(Side.VAST, "a")
    assert await world.owners(), "the edit is somewhere"
    assert await world.state.conflicts()


async def test_metadata_changed_while_a_large_object_was_sent_is_not_lost() -> None:
    """Its parts take hours; the user's edit of the version that they replace comes in between."""
    world = _Scarce()
    await world.write(Side.BLOB, "a", "small")
    await world.step()
    world.later(60)
    await world.write(Side.BLOB, "a", BIG)
    vast, parts = world.raw[Side.VAST], 0

    async def hook(call: str, key: str) -> None:
        nonlocal parts
        parts += call == "put_part"
        if call == "put_part" and parts == 4:
            world.later(3_600)
            vast._hook = None
            await world.edit_on_vast(key)

    vast._hook = hook
    await world.step()
    assert parts == 4, "the edit came between two parts"
    assert await world.text(Side.BLOB, "a") == await world.text(Side.VAST, "a")
    assert await world.owners(), "the edit is somewhere"
    assert await world.state.conflicts()


async def test_metadata_changed_after_the_look_at_both_is_not_lost() -> None:
    """Where both sides were looked at first, and the copy then waited for memory."""
    world = _Scarce()
    await world.write(Side.BLOB, "a", "x" * 60)
    await world.step()
    world.later(60)
    await world.write(Side.BLOB, "a", "y" * 60, told=False)
    await world.look("a")
    step, held = await world.waiting(40)
    await world.edit_on_vast("a")
    world.later(30)
    held.close()
    await step
    assert await world.owners(), "the edit is somewhere"


@pytest.mark.parametrize("mode", [Mode.TWO_WAY, Mode.BLOB_MASTER, Mode.VAST_MASTER])
async def test_a_touch_is_no_change_where_memory_is_scarce_either(mode: Mode) -> None:
    """A file with a new ETag and the old bytes: it is read once there is memory, and then only noted."""
    world = _Scarce(mode)
    await world.write(Side.VAST if mode is Mode.VAST_MASTER else Side.BLOB, "a", "x" * 60)
    await world.step()
    world.later(60)
    world.raw[Side.VAST].write_file("a", b"x" * 60)
    etag = (await world.raw[Side.VAST].head("a")).version.etag
    world.later(60)
    await world.state.mark([Change("a", Side.VAST, Source.RECONCILER, etag=etag)])
    step, held = await world.waiting(40)
    held.close()
    [synced] = await step
    assert synced.decision.action is Action.ADOPT
    assert await world.state.conflicts() == []
    assert world.budget.free == world.budget.total


async def test_an_object_that_was_as_large_before_is_opened_once() -> None:
    """What its version before needed is asked for at once; after one that did not fit, so it is for new ones."""
    world = _Scarce()
    await world.write(Side.BLOB, "a", "x" * 60)
    await world.step()
    opens = world.raw[Side.BLOB].calls.count(("open", "a"))
    await world.write(Side.BLOB, "a", "y" * 60)
    step, held = await world.waiting(40)
    held.close()
    await step
    assert world.raw[Side.BLOB].calls.count(("open", "a")) == opens + 1
    await world.write(Side.BLOB, "b", "z" * 60)
    step, held = await world.waiting(40)
    held.close()
    await step
    await world.write(Side.BLOB, "c", "z" * 60)
    step, held = await world.waiting(40)
    held.close()
    await step
    assert [world.raw[Side.BLOB].calls.count(("open", key)) for key in "bc"] == [2, 1]


async def test_an_object_of_all_memory_is_read_once() -> None:
    """More than there is can never be had: it gets all."""
    world = _Scarce()
    world.ctx = dataclasses.replace(world.ctx, transfer=Transfer(_LIMITS, ByteBudget(32)))
    await world.write(Side.BLOB, "a", "x" * 60, metadata=Metadata())
    await world.step()
    assert world.raw[Side.BLOB].calls.count(("open", "a")) == 1
    assert await world.both("a") == ("x" * 60, "x" * 60)


def _written_in_place(world: World, data: bytes) -> None:
    """A file is overwritten, and the server keeps its ETag (docs/adr/0005)."""
    objects = world.raw[Side.VAST].objects
    before = objects["a"]
    world.raw[Side.VAST].write_file("a", data)
    objects["a"] = dataclasses.replace(objects["a"], etag=before.etag)


async def _agreed_small(mode: Mode = Mode.TWO_WAY) -> _Scarce:
    world = _Scarce(mode)
    await world.write(Side.BLOB, "a", "small")
    await world.step()
    world.later(60)
    await world.write(Side.BLOB, "a", BIG)
    return world


def _midway(world: _Scarce, change: Callable[[], Awaitable[None]]) -> list[str]:
    """An hour goes by at the fourth part, and *change* happens. Returns the calls to VAST, which grow."""
    vast, calls = world.raw[Side.VAST], list[str]()

    async def hook(call: str, key: str) -> None:
        del key
        calls.append(call)
        if call == "put_part" and calls.count("put_part") == 4:
            world.later(3_600)
            vast._hook = None
            await change()
            vast._hook = hook

    vast._hook = hook
    return calls


@pytest.mark.parametrize("data", [b"edited longer", b"SMALL"], ids=["of another size", "of the same size"])
@pytest.mark.parametrize("midway", [False, True], ids=["before the look", "while it was sent"])
async def test_a_file_written_into_under_its_etag_is_kept_before_it_is_replaced(data: bytes, *, midway: bool) -> None:
    """Neither ETag nor metadata tell, but size and time do: the loser is kept."""
    world = await _agreed_small()

    async def change() -> None:
        _written_in_place(world, data)
        world.later(60)

    world.later(3_600)
    if midway:
        _midway(world, change)
    else:
        await change()
    await world.step()
    assert data in [stored.data for store in world.raw.values() for stored in store.objects.values()]
    assert await world.state.conflicts()


@pytest.mark.parametrize("failures", [1, 20], ids=["once", "for long"])
async def test_a_look_that_fails_costs_no_part(failures: int) -> None:
    """The last HEAD of a transfer that was gone on with is answered 500: it is asked again, and what was sent stays."""
    world = await _agreed_small()
    vast = world.raw[Side.VAST]
    vast.fail_next("complete", RetryLater("cut", reason="unreachable", side=Side.VAST))
    with pytest.raises(RetryLater, match="cut"):
        await world.step()
    await world.crash()
    world.later(60)
    looks, left = 0, failures

    async def hook(call: str, key: str) -> None:
        nonlocal looks, left
        looks += (call, key) == ("head", "a")
        world.later(2)  # so that there is a last look
        if (call, key) == ("head", "a") and looks > 1 and left:
            left -= 1
            raise RetryLater("500", reason="server_error", side=Side.VAST)

    sent = sum(call == "put_part" for call, _ in vast.calls)
    vast._hook = hook
    if failures > 1:
        with pytest.raises(RetryLater, match="500"):
            await world.step()
        vast._hook = None
        assert await world.state.transfer("a")
        await world.crash()
        world.later(60)
    await world.step()
    assert left < failures
    assert await world.both("a") == (BIG, BIG)
    assert sum(call == "put_part" for call, _ in vast.calls) == sent


async def test_a_connection_that_is_kept_keeps_no_body() -> None:
    """What is opened during a put keeps the put's context for as long as it lives: not what is asked before the put."""

    class _Body:
        async def confirm(self) -> None: ...

    body, kept = _Body(), asyncio.Event()
    gone = weakref.ref(body)
    with confirmed_by(body.confirm):
        connection = asyncio.create_task(kept.wait())
    await asyncio.sleep(0)
    del body
    gc.collect()
    assert gone() is None
    kept.set()
    await connection


async def test_parts_are_of_use_where_the_new_decision_is_the_same() -> None:
    """What was edited on a side that is led is undone all the same: nothing that was sent is sent again."""
    world = await _agreed_small(Mode.BLOB_MASTER)
    calls = _midway(world, lambda: world.edit_on_vast("a"))
    await world.step()
    assert await world.both("a") == (BIG, BIG)
    assert calls.count("put_part") == 8
    assert await world.owners() or await world.state.conflicts(), "the edit was kept"


async def test_metadata_changed_while_bandwidth_was_waited_for_is_not_lost() -> None:
    """The body has been read and the destination looked at; then its share of the bandwidth takes a minute."""
    world = _Scarce()
    small = TransferLimits(small_object_bytes=1 << 20, part_bytes=1 << 20, parallel_parts=2)
    world.ctx = dataclasses.replace(world.ctx, transfer=Transfer(small, ByteBudget(1 << 22)))
    await world.write(Side.BLOB, "a", "small")
    await world.step()
    world.later(60)
    await world.write(Side.BLOB, "a", "x" * (SMALL_BODY_BYTES + 1))
    gate = world.ctx.stores[Side.VAST].gate  # type: ignore[attr-defined]
    gate.limits = PaceLimits(bandwidth=parse_timetable("4k"))
    edited = False

    async def sleep(seconds: float) -> None:
        nonlocal edited
        world.later(seconds)
        if not edited:
            edited = True
            await world.edit_on_vast("a")

    with patch.object(world.clock, "sleep", sleep):
        await world.step()
    assert edited
    assert await world.owners(), "the edit is somewhere"
    assert await world.state.conflicts()


async def _overwritten_by(world: _Scarce, how: str) -> None:
    """A user of Blob does that to what is on both sides."""
    if how == "deleted":
        await world.remove(Side.BLOB, "a")
    elif how == "described":
        await world.write(Side.BLOB, "a", "small", metadata=Metadata(user=(("colour", "red"),)))
    else:
        await world.write(Side.BLOB, "a", BIG if how == "large" else "y" * 60)


@pytest.mark.parametrize("how", ["small", "large", "deleted", "described"])
async def test_metadata_changed_while_a_place_was_waited_for_is_not_lost(how: str) -> None:
    """Between the look and the write a minute of others' requests goes by: the rate allows one a second."""
    world = _Scarce()
    await world.write(Side.BLOB, "a", "small")
    await world.step()
    world.later(60)
    await _overwritten_by(world, how)
    gate = world.ctx.stores[Side.VAST].gate  # type: ignore[attr-defined]
    gate.limits = PaceLimits(requests_per_second=1)
    vast, looked, edited = world.raw[Side.VAST], False, False

    async def hook(call: str, key: str) -> None:
        nonlocal looked
        all_sent = how != "large" or vast.calls.count(("put_part", key)) == PARTS
        if call == "head" and all_sent and not edited:
            looked = True
            gate.took(60)

    async def sleep(seconds: float) -> None:
        nonlocal edited
        world.later(seconds)
        if looked and not edited:
            edited = True
            await world.edit_on_vast("a")

    vast._hook = hook
    with patch.object(world.clock, "sleep", sleep):
        await world.step()
    assert edited or how == "large", "nothing comes between the look at what a large object replaces and its commit"
    kept = [record.loser_metadata for record in await world.state.conflicts()]
    assert not edited or await world.owners() or any(lost is not None and lost.user for lost in kept), "the edit is somewhere"


async def test_metadata_changed_while_a_word_on_a_conflict_waits_is_not_lost() -> None:
    """A person takes the metadata that lost on VAST; a minute of others' requests goes by between the look and the write."""
    world, record = await metadata_fought(Side.VAST)
    gate, vast = world.ctx.stores[Side.VAST].gate, world.sides[Side.VAST]  # type: ignore[attr-defined]
    gate.limits = PaceLimits(requests_per_second=1)

    async def hook(call: str, _: str) -> None:
        if call == "head":
            vast._hook = None
            gate.took(60)

    async def sleep(seconds: float) -> None:
        world.clock.us += int(seconds * 1e6)
        if colours(world) == {(("colour", "blue"),)} and vast._hook is None:
            await world.describe(Side.VAST, "green")

    vast._hook = hook
    with patch.object(world.clock, "sleep", sleep), pytest.raises(Reobserve, match="changed since it was looked at"):
        await world.judge(record, Verdict.OTHER)
    assert vast.objects["a.txt"].metadata.user == (("colour", "green"),)
    assert await world.state.conflicts()
