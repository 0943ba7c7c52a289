"""New metadata takes Azure two requests: what is between them is ours, and never undoes what VAST's user wrote (rules 1, 4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from federation.errors import RetryLater
from federation.model import Metadata, Present, Side
from tests.unit.world import World

OLD = Metadata(content_type="text/plain", user=(("owner", "alice"),))
NEW = Metadata(content_type="text/csv", user=(("owner", "bob"),))
NEWER = Metadata(content_type="text/html", user=(("owner", "carol"),))
HALF = replace(OLD, content_type=NEW.content_type)
LARGE = "large" * 40


class _Killed(Exception):
    """The process is gone."""


async def _change(world: World, side: Side, metadata: Metadata) -> None:
    """A user replaces the metadata, ours with it."""
    held = await world.raw[side].head("a")
    etag = held.version.etag
    changed = await world.raw[side].replace_metadata("a", metadata, stamp=held.origin, expected_etag=etag)
    await world.tell(side, "a", etag=changed.etag)


async def _between(world: World, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """One pass, in which *meanwhile* happens between the two requests; then the process is gone."""
    blob = world.raw[Side.BLOB]
    met = []

    async def hook(name: str, key: str) -> None:
        if name == "set_metadata":
            blob._hook = None
            met.append(key)
            await meanwhile()

    blob._hook = hook
    with pytest.raises((_Killed, RetryLater)):
        await world.step()
    assert met == ["a"]
    await world.crash()
    world.later()


async def _die() -> None:
    raise _Killed


async def _refuse() -> None:
    raise RetryLater("busy", reason="throttled", side=Side.BLOB)


async def _half(content: str = "content", *, stamps: bool = True) -> World:
    """VAST's user has changed headers and user metadata, of which Blob has the headers."""
    world = World()
    world.ctx = replace(world.ctx, origin_stamps=stamps)
    await world.write(Side.BLOB, "a", content, metadata=OLD)
    await world.step()
    world.later()
    await _change(world, Side.VAST, NEW)
    await _between(world, _die)
    assert (await world.raw[Side.BLOB].head("a")).metadata == HALF
    return world


async def _metadata(world: World) -> list[Metadata]:
    return [(await world.raw[side].head("a")).metadata for side in Side]


@pytest.mark.parametrize("stamps", [True, False])
@pytest.mark.parametrize("fault", [_die, _refuse])
async def test_the_rest_follows_whatever_came_between(fault: Callable[[], Awaitable[None]], stamps: bool) -> None:
    """Killed or refused between the two requests, twice: then Blob has VAST's metadata, and nobody is told of a conflict."""
    world = await _half(stamps=stamps)
    blob = world.raw[Side.BLOB]
    blob.fail_next("replace_metadata", RetryLater("busy", reason="throttled"))
    with pytest.raises(RetryLater):
        await world.step()
    await world.crash()
    world.later()
    await _change(world, Side.VAST, NEWER)
    await _between(world, fault)
    await world.look("a")
    await world.step()
    assert await _metadata(world) == [NEWER, NEWER]
    assert await world.state.conflicts() == []


async def test_what_half_written_metadata_was_on_its_way_to_may_change_or_go() -> None:
    """VAST's next version, large or small, or its delete, meets no edit of a user on Blob."""
    for content in ("content", LARGE):
        world = await _half(content)
        await world.write(Side.VAST, "a", content + "!", metadata=NEWER)
        world.later()
        await world.step()
        assert await world.both("a") == (content + "!", content + "!")
        assert await world.state.conflicts() == []
    world = await _half()
    await world.remove(Side.VAST, "a")
    await world.step()
    assert await world.both("a") == (None, None)
    assert await world.state.conflicts() == []


@pytest.mark.parametrize(("content", "call"), [("content", "set_properties"), ("content", "put"), (LARGE, "complete")])
async def test_half_written_metadata_stays_ours_however_its_successor_fails(content: str, call: str) -> None:
    """The intent of what was to replace it takes the place of its own: when nothing came of that, it is still no user's."""
    world = await _half(content)
    if call == "set_properties":
        await _change(world, Side.VAST, NEWER)
    else:
        await world.write(Side.VAST, "a", content + "!", metadata=NEWER)
    world.later()
    world.raw[Side.BLOB].fail_next(call, RetryLater("away", reason="unreachable"))
    with pytest.raises((RetryLater, ExceptionGroup)):
        await world.step()
    await world.crash()
    world.later()
    await world.step()
    assert await _metadata(world) == [NEWER, NEWER]
    assert await world.state.conflicts() == []


@pytest.mark.parametrize("when", ["between", "after"])
@pytest.mark.parametrize("theirs", [replace(HALF, user=(("owner", "dave"),)), replace(HALF, content_type="text/xml")])
async def test_a_user_s_metadata_on_blob_is_a_user_s(theirs: Metadata, when: str) -> None:
    """Written between the two requests or after a fault there, it is weighed as any write, and the other is kept."""
    if when == "after":
        world = await _half()
        await _change(world, Side.BLOB, theirs)
    else:
        world = World()
        await world.write(Side.BLOB, "a", "content", metadata=OLD)
        await world.step()
        world.later()
        await _change(world, Side.VAST, NEW)

        async def meanwhile() -> None:
            world.later()
            await _change(world, Side.BLOB, theirs)
            await _die()

        await _between(world, meanwhile)
    await world.step()
    assert await _metadata(world) == [theirs, theirs]
    [conflict] = await world.state.conflicts()
    assert (conflict.loser_side, conflict.loser_metadata) == (Side.VAST, NEW)


async def test_a_user_s_content_under_the_same_metadata_is_a_user_s() -> None:
    """Metadata as between the two requests proves nothing of other content, be it of the same length."""
    world = await _half()
    await world.write(Side.BLOB, "a", "CONTENT", metadata=HALF)
    world.later()
    await world.step()
    assert await world.both("a") == ("CONTENT", "CONTENT")
    assert len(await world.state.conflicts()) == 1


@pytest.mark.parametrize("theirs", ["content", "CONTENT"])
async def test_content_without_a_hash_is_read(monkeypatch: pytest.MonkeyPatch, theirs: str) -> None:
    """Azure has no hash of blobs that came in blocks: what may be half-written is read, and only then known for it."""
    world = await _half()
    blob = world.raw[Side.BLOB]
    if theirs != "content":
        await world.write(Side.BLOB, "a", theirs, metadata=HALF)
    world.later()
    told = blob._present

    def unhashed(found: object) -> Present:
        present = told(found)  # type: ignore[arg-type]
        return replace(present, version=replace(present.version, md5=None))

    monkeypatch.setattr(blob, "_present", unhashed)
    await world.step()
    assert await world.both("a") == (theirs, theirs)
    assert len(await world.state.conflicts()) == (theirs != "content")


async def test_metadata_that_won_where_nothing_was_agreed_is_carried_on() -> None:
    """Sides that came with equal content and other metadata: the loser is kept once, though the work took two passes."""
    world = World()
    await world.write(Side.BLOB, "a", "content", metadata=OLD)
    world.later(60)
    await world.write(Side.VAST, "a", "content", metadata=NEW)
    world.later()
    await _between(world, _die)
    await world.step()
    assert await _metadata(world) == [NEW, NEW]
    [conflict] = await world.state.conflicts()
    assert (conflict.loser_side, conflict.loser_metadata) == (Side.BLOB, OLD)


@pytest.mark.parametrize(("new", "intents"), [(NEW, 1), (replace(OLD, user=NEW.user), 0)])
async def test_only_metadata_that_takes_two_requests_costs_an_intent(
    monkeypatch: pytest.MonkeyPatch, new: Metadata, intents: int
) -> None:
    """No request to a side more than before, and none to the state where one request does it all."""
    world = World()
    await world.write(Side.BLOB, "a", "content", metadata=OLD)
    await world.step()
    world.later()
    await _change(world, Side.VAST, new)
    intended = []
    intend = world.state.intend

    async def counted(*arguments: object) -> None:
        intended.append(arguments)
        await intend(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(world.state, "intend", counted)
    await world.step()
    assert await _metadata(world) == [new, new]
    assert len(intended) == intents


async def test_redis_away_before_the_first_request_stops_it_and_is_no_fault_of_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is half-written that nobody could know of later; and Blob, which answered, is not left alone for it."""
    world = World()
    await world.write(Side.BLOB, "a", "content", metadata=OLD)
    await world.step()
    world.later()
    await _change(world, Side.VAST, NEW)

    async def away(*_: object) -> None:
        raise RetryLater("away", reason="redis_unavailable")

    gate = world.ctx.stores[Side.BLOB].gate  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(world.state, "intend", away)
        with pytest.raises(RetryLater):
            await world.step()
    assert await _metadata(world) == [OLD, NEW]
    assert (gate.failing_since_us, gate.throttles) == (None, 0)
    await world.crash()
    world.later()
    await world.step()
    assert await _metadata(world) == [NEW, NEW]
