"""Where a side keeps versions, a loser is kept by its version id: no copy, and it is listed, read back, and found again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.errors import Park, RetryLater, UsageError
from federation.model import Metadata, Present, Side
from federation.progress import ConflictRecord
from federation.sync.preserve import CONFLICTS_PREFIX, RECORD_LOST, relist
from federation.sync.resolve import Verdict, resolve, visible_key
from tests.unit.world import World


async def conflict(loser: Side, key: str = "a", *, delete: bool = False) -> tuple[World, ConflictRecord]:
    """Both sides changed *key*, *loser* earlier, on sides that keep versions; the winner was copied or deleted over it."""
    world = World()
    for store in world.raw.values():
        store.capabilities = replace(store.capabilities, versioning=True)
    await world.write(Side.BLOB, key, "first")
    await world.step()
    world.later(60)
    await world.write(loser, key, "loser", told=False, metadata=Metadata(content_type="text/x-loser"))
    await world.tell(loser, key, etag=(await world.raw[loser].head(key)).version.etag)
    world.later(60)
    if delete:
        await world.remove(loser.other, key)
    else:
        await world.write(loser.other, key, "winner")
    await world.step()
    [record] = await world.state.conflicts()
    return world, record


@pytest.fixture(params=list(Side), ids=str)
def loser(request: pytest.FixtureRequest) -> Side:
    """The side whose version loses."""
    chosen: Side = request.param
    return chosen


@pytest.mark.parametrize("delete", [False, True], ids=["overwritten", "deleted"])
async def test_the_loser_is_a_version_and_no_copy(loser: Side, *, delete: bool) -> None:
    """Nothing was copied on the server; the recorded id reads the losing bytes back."""
    world, record = await conflict(loser, delete=delete)
    assert await world.both("a") == ((None, None) if delete else ("winner", "winner"))
    assert (record.loser_side, record.loser_size_bytes) == (loser, 5)
    assert not [call for side in Side for call, _ in world.raw[side].calls if call == "copy"]
    reader = await world.raw[loser].open_version("a", record.preserved_version_id)
    assert await reader.read() == b"loser"
    assert (await world.raw[loser].head(record.preserved_as)).version.size_bytes == 0


async def test_take_other_brings_the_version_back(loser: Side) -> None:
    """Bytes and metadata of the loser become current on both sides; the pointer and the record are gone."""
    world, record = await conflict(loser)
    assert await resolve(world.ctx, world.state, record, Verdict.OTHER) == "a"
    world.later(60)
    await world.step()
    assert await world.both("a") == ("loser", "loser")
    assert (await world.raw[loser].head("a")).metadata.content_type == "text/x-loser"
    assert await world.state.conflicts() == []
    assert [key for key in world.raw[loser].objects if key.startswith(CONFLICTS_PREFIX)] == []


async def test_keep_both_gives_the_version_a_name_once(loser: Side) -> None:
    """The loser stands beside the winner; doing it again after a crash changes nothing."""
    world, record = await conflict(loser)
    for _ in range(2):
        assert await resolve(world.ctx, world.state, record, Verdict.KEEP_BOTH) == visible_key(record)
    world.later(60)
    await world.step()
    assert await world.both(visible_key(record)) == ("loser", "loser")
    assert await world.both("a") == ("winner", "winner")


async def test_drop_leaves_the_version_to_the_side(loser: Side) -> None:
    """fedplane never deletes a user's old version; only its own pointer goes."""
    world, record = await conflict(loser)
    assert await resolve(world.ctx, world.state, record, Verdict.DROP) == ""
    assert record.preserved_as not in world.raw[loser].objects
    assert await (await world.raw[loser].open_version("a", record.preserved_version_id)).read() == b"loser"


async def test_a_version_that_expired_is_a_clear_word(loser: Side) -> None:
    """The side's own lifecycle removed it: resolve says so, and what to do."""
    world, record = await conflict(loser)
    world.raw[loser].versions.clear()
    with pytest.raises(UsageError, match="--take drop"):
        await resolve(world.ctx, world.state, record, Verdict.OTHER)
    assert await world.both("a") == ("winner", "winner")


@pytest.mark.parametrize("key", ["a", "/".join(["x" * 198] * 5)], ids=["short", "too long for the rest of the name"])
async def test_a_lost_record_is_made_again_from_the_pointer(loser: Side, key: str) -> None:
    """After the state was lost, key and version id come back from the pointer, and the loser can be read."""
    world, record = await conflict(loser, key)
    await world.state.drop_conflict(record.conflict_id)
    world.later(3600)
    assert await relist(world.ctx.stores, world.state, world.clock) == 1
    [found] = await world.state.conflicts()
    assert (found.conflict_id, found.key, found.reason) == (record.conflict_id, key, RECORD_LOST)
    assert found.preserved_version_id == record.preserved_version_id
    assert await resolve(world.ctx, world.state, found, Verdict.OTHER) == key


@pytest.mark.parametrize("fault", [RetryLater("202", reason="copy_pending"), Park("empty", reason="copy_failed")], ids=str)
async def test_a_copy_that_was_not_filled_is_no_kept_one(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    """Of a loser whose copy the service is still at, or gave up: nothing is recorded, and what comes after it is."""
    world, record = await conflict(Side.BLOB)
    await world.state.drop_conflict(record.conflict_id)
    store = world.raw[Side.BLOB]
    empty = record.preserved_as.replace("/a~", "/0~")
    await store.put(empty, b"", Metadata(), stamp=None, expected_etag=None)
    world.later(3600)
    head = store.head

    async def unfilled(key: str) -> Present:
        if key == empty:
            raise fault
        return await head(key)

    monkeypatch.setattr(store, "head", unfilled)
    assert await relist(world.ctx.stores, world.state, world.clock) == 1
    assert [one.conflict_id for one in await world.state.conflicts()] == [record.conflict_id]


async def test_an_id_that_leads_nowhere_is_not_relied_on(loser: Side) -> None:
    """The id is tried before the loser is overwritten; if it cannot be read back, or is another version, the loser is copied."""
    world = World()
    store = world.raw[loser]
    store.capabilities = replace(store.capabilities, versioning=True)
    for key, spoil in (("gone", store.versions.clear), ("other", None)):
        await world.write(Side.BLOB, key, "first")
        await world.step()
        world.later(60)
        await world.write(loser, key, "loser", told=False)
        await world.tell(loser, key, etag=(await store.head(key)).version.etag)
        if spoil is not None:
            spoil()
        else:
            kept = store.objects[key]
            store.versions[key, kept.version_id or ""] = replace(kept, etag="0" * 32)
        world.later(60)
        await world.write(loser.other, key, "winner")
        await world.step()
    records = await world.state.conflicts()
    assert [one.preserved_version_id for one in records] == ["", ""]
    assert [await world.text(loser, one.preserved_as) for one in records] == ["loser", "loser"]


async def test_a_version_without_an_id_is_copied(loser: Side) -> None:
    """Written before versioning was switched on: nothing would keep it, so it is copied."""
    world = World()
    await world.write(Side.BLOB, "a", "first")
    await world.step()
    world.later(60)
    await world.write(loser, "a", "loser")
    for store in world.raw.values():
        store.capabilities = replace(store.capabilities, versioning=True)
    world.later(60)
    await world.write(loser.other, "a", "winner")
    await world.step()
    [record] = await world.state.conflicts()
    assert record.preserved_version_id == ""
    assert await world.text(loser, record.preserved_as) == "loser"
