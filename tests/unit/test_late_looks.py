"""What is replaced is looked at right before, however long reading, waiting for memory or a large transfer took (rule 5)."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from federation.model import Change, Metadata, Mode, Side, Source
from federation.rules.decision import Action
from federation.sync import transfer
from federation.sync.budget import ByteBudget, Room
from federation.sync.sync_key import Synced
from federation.sync.transfer import Transfer, TransferLimits
from tests.unit.world import World

_LIMITS = TransferLimits(small_object_bytes=64, part_bytes=32, parallel_parts=2)
BIG = "b" * 240


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
