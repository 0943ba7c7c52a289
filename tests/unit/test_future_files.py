"""A file that says it was written in the future is copied once it was seen unchanged, and then left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.model import Change, ListEntry, Side
from federation.sync.sync_key import NotQuiet
from reconciler.drift import News, changes, news
from reconciler.merge import Row
from tests.unit.world import SECOND, World

HOUR_US = 3600 * SECOND


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


async def test_a_file_of_the_future_is_copied_and_then_left_alone() -> None:
    """Neither young until its time has come, nor read anew by each scan until then; written again it is news."""
    world = World()
    store = world.raw[Side.VAST]
    store.write_file("a", b"one")
    held = store.objects["a"]
    store.objects["a"] = replace(held, modified=replace(held.modified, at_us=held.modified.at_us + HOUR_US))
    assert await _scanned(world)
    with pytest.raises(NotQuiet):
        await world.step()
    await world.crash()
    world.clock.us += 10 * SECOND
    await world.step()
    assert await world.text(Side.BLOB, "a") == "one"

    world.clock.us += 60 * SECOND
    assert await _scanned(world) == []
    store.write_file("a", b"two")
    assert await _scanned(world)
    world.clock.us += 10 * SECOND
    await world.step()
    assert await world.text(Side.BLOB, "a") == "two"
