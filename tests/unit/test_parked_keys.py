"""Parked keys come back by themselves when what held them is over, and a crash while a blob changes its type costs nothing."""

from __future__ import annotations

import pytest

from federation import metadata
from federation.errors import Park
from federation.model import Change, Metadata, OriginStamp, Side, Source, Stamp, StampOrigin
from federation.progress import Parked
from federation.rules.parking import REASONS
from federation.stores import azure_recreate, codes
from federation.sync.observe import seal
from federation.sync.outcome import ToPark, ending
from tests.unit.world import World

REHYDRATING = next(meaning for meaning in codes.AZURE.values() if meaning[1] == "rehydrating")


async def parked_rehydrating(world: World) -> Parked:
    """A blob that cannot be read yet is parked, as the worker does it."""
    await world.write(Side.BLOB, "a", "cold")
    world.raw[Side.BLOB].fail_next("open", Park("the service says so", reason=REHYDRATING[1], key="a", side=Side.BLOB))
    with pytest.raises(Park) as error:
        await world.step()
    what = ending(error.value, attempts=0, max_attempts=9, now_us=world.clock.us)
    assert isinstance(what, ToPark)
    assert world.lease is not None
    hint, _, _, _ = await world.state.explain("a")
    assert hint is not None
    await world.state.park(world.lease, "a", hint.generation, reason=what.reason, detail=what.detail, now_us=world.clock.us)
    [found] = await world.state.parked()
    return found


@pytest.mark.parametrize("source", [Source.EVENT_GRID, Source.RECONCILER], ids=["tier event", "scan"])
async def test_a_rehydrated_blob_comes_back_by_itself(source: Source) -> None:
    """The tier event, which names no version, or a scan makes it dirty again, and it is copied."""
    world = World()
    found = await parked_rehydrating(world)
    assert REASONS[found.reason].by_itself
    assert await world.step() == []
    world.later(3600)
    await world.state.mark([Change("a", Side.BLOB, source)])
    await world.step()
    assert await world.both("a") == ("cold", "cold")
    assert await world.state.parked() == []


async def test_a_crash_while_a_blob_changes_its_type_is_made_good() -> None:
    """The empty blob that held the name is no user's write: VAST's version is copied, and no conflict is recorded."""
    world = World()
    await world.write(Side.VAST, "a", "old")
    await world.step()
    world.later(60)
    await world.write(Side.VAST, "a", "new and longer")
    etag = (await world.raw[Side.BLOB].head("a")).version.etag
    plain = Metadata()
    new = OriginStamp(Side.VAST, "any", Stamp(world.clock.us, 1, StampOrigin.EVENT), None, seal("a", metadata.digest(plain)))
    holder = azure_recreate.holding(metadata.to_side(plain, new, Side.BLOB))
    assert holder is not None
    held, stamp = metadata.from_side(holder.headers, holder.user, Side.BLOB)
    world.later(60)
    await world.raw[Side.BLOB].put("a", b"", held, stamp=stamp, expected_etag=etag)
    await world.look("a")
    await world.step()
    assert await world.both("a") == ("new and longer", "new and longer")
    assert await world.state.conflicts() == []
