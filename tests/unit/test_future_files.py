"""A file that says it was written in the future is copied once it was seen unchanged, and then costs a look a scan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.model import Change, ListEntry, Side
from federation.stores.memory import MemoryStore
from federation.sync.sync_key import NotQuiet
from reconciler.drift import News, changes, news
from reconciler.merge import Row
from tests.unit.world import SECOND, World

HOUR_US = 3600 * SECOND


def _with_a_file_of_the_future() -> tuple[World, MemoryStore]:
    world = World()
    store = world.raw[Side.VAST]
    store.write_file("a", b"one")
    held = store.objects["a"]
    store.objects["a"] = replace(held, modified=replace(held.modified, at_us=held.modified.at_us + HOUR_US))
    return world, store


async def _scanned(world: World) -> list[Change]:
    """What a scan marks now."""
    [base] = await world.state.bases(["a"])
    present = await world.raw[Side.VAST].head("a")
    entry = ListEntry("a", present.version.etag, present.version.size_bytes, present.version.modified)
    blob = world.raw[Side.BLOB].objects.get("a")
    row = Row("a", ListEntry("a", blob.etag, len(blob.data), blob.modified) if blob else None, entry)
    found = [] if news(entry, base, Side.VAST) is News.SAME else changes(row, base, now_us=dict.fromkeys(Side, world.clock.us))
    await world.state.mark(found)
    return found


async def test_a_file_of_the_future_is_copied_and_then_looked_at() -> None:
    """Neither young until its time has come, nor read anew by each scan until then; written again it is news."""
    world, store = _with_a_file_of_the_future()
    assert await _scanned(world)
    with pytest.raises(NotQuiet):
        await world.step()
    await world.crash()
    world.clock.us += 10 * SECOND
    await world.step()
    assert await world.text(Side.BLOB, "a") == "one"

    world.clock.us += 60 * SECOND
    [look] = await _scanned(world)
    assert look.etag is None
    store.calls.clear()
    await world.step()
    assert {call for call, _ in store.calls} == {"head"}
    store.write_file("a", b"two")
    assert await _scanned(world)
    world.clock.us += 10 * SECOND
    await world.step()
    assert await world.text(Side.BLOB, "a") == "two"


async def test_a_file_of_the_future_that_no_scan_told_of_counts_since_it_was_first_seen() -> None:
    """A change on Blob does not wait for the next scan because of it."""
    world, _ = _with_a_file_of_the_future()
    world.clock.us += 60 * SECOND
    await world.write(Side.BLOB, "a", "two")
    with pytest.raises(NotQuiet):
        await world.step()
    await world.crash()
    world.clock.us += 10 * SECOND
    await world.step()
    blob, vast = await world.both("a")
    assert blob == vast
