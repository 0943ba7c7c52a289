"""What a write of ours is known to have left damaged is never taken for a user's, nor for a copy (rule 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from aiohttp import web

from federation.errors import FederationError, Park, RetryLater
from federation.model import Base, Metadata, Present, Side
from federation.progress import Held, Lease
from federation.stores.vast_s3 import VastS3Store
from tests.unit.store_server import EMPTY, MODIFIED, refusal, served
from tests.unit.world import World

SMALL = "small"
LARGE = "large" * 40
MD5 = "5d41402abc4b2a76b9719d911017c592"


async def _damaged(monkeypatch: pytest.MonkeyPatch, side: Side, text: str, *, known: bool, hashed: bool, stamps: bool) -> World:
    """A user wrote *text* on *side*, minutes ago; our copy of it arrived damaged."""
    world = World()
    world.ctx = replace(world.ctx, origin_stamps=stamps)
    source = world.raw[side]
    if known:
        await world.write(side, "a", "before")
        await world.step()
        world.later()
    if not hashed:
        told = source._present

        def unhashed(found: object) -> Present:
            present = told(found)  # type: ignore[arg-type]
            return replace(present, version=replace(present.version, md5=None))

        monkeypatch.setattr(source, "_present", unhashed)
    await world.write(side, "a", text)
    world.later(300)
    await _fails(world, side.other)
    assert await world.text(side.other, "a") not in (None, text)
    return world


async def _fails(world: World, on: Side) -> None:
    world.raw[on].damages = 1
    with pytest.raises((Park, RetryLater)) as raised:
        await world.step()
    assert raised.value.reason in ("damaged_write", "checksum_mismatch")
    assert raised.value.left_etag == world.raw[on].objects["a"].etag


async def _parked(world: World) -> None:
    """As the worker does it in the end; then the key waits for news."""
    assert world.lease is not None
    await world.state.park(world.lease, "a", world.state._dirty["a"].claimed, reason="damaged_write", detail="", now_us=0)


def _keys(world: World) -> list[str]:
    return sorted(key for store in world.raw.values() for key in store.objects)


@pytest.mark.parametrize("again", ["at once", "after its event", "unparked by its event", "damaged again"])
@pytest.mark.parametrize(
    ("side", "text", "known", "hashed", "stamps"),
    list(product(Side, (SMALL, LARGE), (True, False), (True, False), (True, False))),
)
async def test_what_arrived_damaged_is_written_anew(
    monkeypatch: pytest.MonkeyPatch, side: Side, text: str, known: bool, hashed: bool, stamps: bool, again: str
) -> None:
    """From the source, over exactly what the damage left; both sides end good, and nobody is told of a conflict."""
    world = await _damaged(monkeypatch, side, text, known=known, hashed=hashed, stamps=stamps)
    if again == "unparked by its event":
        await _parked(world)
    else:
        await world.crash()
    if "event" in again:
        await world.tell(side.other, "a", etag=world.raw[side.other].objects["a"].etag)
    world.later(2)
    if again == "damaged again":
        await _fails(world, side.other)
        await world.crash()
    await world.step()
    assert await world.both("a") == (text, text)
    assert await world.state.conflicts() == []
    assert _keys(world) == ["a", "a"]


@pytest.mark.parametrize("text", [SMALL, LARGE])
@pytest.mark.parametrize("side", list(Side))
async def test_a_user_s_write_over_the_damage_is_a_user_s(monkeypatch: pytest.MonkeyPatch, side: Side, text: str) -> None:
    """Only the ETag that we left is ours: what came over it is weighed, and what loses is kept."""
    world = await _damaged(monkeypatch, side, text, known=True, hashed=False, stamps=True)
    await world.crash()
    world.later()
    await world.write(side.other, "a", "theirs")
    world.later()
    await world.step()
    assert await world.both("a") == ("theirs", "theirs")
    [conflict] = await world.state.conflicts()
    assert (await (await world.raw[side].open(conflict.preserved_as)).read()).decode() == text


async def test_metadata_that_changed_on_the_way_makes_no_user_s_version_of_the_damage() -> None:
    """The attempt after it was interrupted too, and had noted what it was to write: the stamp says that the damage is ours."""
    world = World()
    await world.write(Side.BLOB, "a", "before")
    world.later(30)
    await world.step()
    world.later()
    await world.write(Side.BLOB, "a", LARGE)
    world.later(300)
    vast, wrote = world.raw[Side.VAST], LARGE[:-1] + "2"

    async def meanwhile(name: str, key: str) -> None:
        if name == "complete":
            vast._hook = None
            await world.write(Side.BLOB, key, wrote, metadata=Metadata(user=(("x", "1"),)))
            world.later(3)

    vast._hook = meanwhile
    await _fails(world, Side.VAST)
    await world.crash()
    world.later(30)
    vast.fail_next("begin_upload", RetryLater("away", reason="server_error"))
    with pytest.raises(RetryLater, match="away"):
        await world.step()
    await world.crash()
    world.later(30)
    await world.step()
    assert await world.both("a") == (wrote, wrote)
    assert await world.state.conflicts() == []


async def test_a_user_who_writes_just_what_the_damage_left_has_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """VAST's ETag is the content's hash: of an empty object, for example. What is much later than our write is not ours."""
    world = await _damaged(monkeypatch, Side.BLOB, SMALL, known=True, hashed=True, stamps=True)
    left = (await world.text(Side.VAST, "a")) or ""
    await _parked(world)
    world.later(600)
    await world.write(Side.VAST, "a", left)
    world.later()
    await world.step()
    assert await world.both("a") == (left, left)
    [conflict] = await world.state.conflicts()
    assert (await (await world.raw[Side.BLOB].open(conflict.preserved_as)).read()).decode() == SMALL


@pytest.mark.parametrize("change", ["later", None])
async def test_a_source_that_changed_or_went_meanwhile_is_followed(monkeypatch: pytest.MonkeyPatch, change: str | None) -> None:
    """The damage is of an older version then, and ours all the same."""
    for side, text in product(Side, (SMALL, LARGE)):
        world = await _damaged(monkeypatch, side, text, known=True, hashed=True, stamps=True)
        await world.crash()
        await (world.write(side, "a", change) if change else world.remove(side, "a"))
        world.later()
        await world.step()
        assert await world.both("a") == (change, change)
        assert await world.state.conflicts() == []


@pytest.mark.parametrize("side", list(Side))
async def test_a_copy_of_ours_that_is_put_back_wins_over_the_damage(side: Side) -> None:
    """On a person's word what was *side*'s comes back from our copy of it: that is not undone by its own damaged return."""
    world = World()
    await world.write(side, "a", SMALL)
    await world.step()
    world.later()
    await world.remove(side, "a")
    assert world.lease is not None
    [claim] = await world.state.claim(world.lease, limit=1, now_us=world.clock.us)
    held = Held("a", side.other, "delete_budget", world.clock.us)
    await world.state.hold(world.lease, "a", claim.hint.generation, held)
    await world.state.judge(["a"], verdict="rejected", now_us=world.clock.us)
    await _fails(world, side)
    await world.crash()
    world.later()
    await world.step()
    assert await world.both("a") == (SMALL, SMALL)


@pytest.mark.parametrize("failures", [3, 1000])
async def test_redis_away_after_the_damage_does_not_hide_it(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    """The damage is what is told; it is recorded once Redis is back soon."""
    world = World()
    await world.write(Side.BLOB, "a", "before")
    await world.step()
    world.later()
    await world.write(Side.BLOB, "a", SMALL)
    intend, left = world.state.intend, iter(range(failures))

    async def away(lease: Lease, key: str, intent: Base) -> None:
        if next(left, None) is not None:
            raise RetryLater("away", reason="redis_unavailable")
        await intend(lease, key, intent)

    monkeypatch.setattr(world.state, "intend", away)
    world.later(300)
    await _fails(world, Side.VAST)
    await world.crash()
    world.later()
    if failures == 3:
        await world.step()
        assert await world.both("a") == (SMALL, SMALL)
        assert await world.state.conflicts() == []


def _etags(*etags: str) -> Iterator[web.Response]:
    for etag in etags:
        yield web.Response(headers=EMPTY | {"ETag": f'"{etag}"'}) if etag else refusal(503, "ServiceUnavailable")
    raise AssertionError("asked too often")


@pytest.mark.parametrize(
    ("etags", "reason", "left"),
    [
        (["1" * 32, "2" * 32, "3" * 32], "damaged_write", "3" * 32),
        (["1" * 32, ""], "", "1" * 32),
        (["1" * 32, "2" * 32, ""], "", "2" * 32),
        ([""], "", ""),
    ],
    ids=["each time", "then refused", "twice, then refused", "refused"],
)
async def test_a_small_write_tells_what_it_left_damaged(etags: list[str], reason: str, left: str) -> None:
    """However it ends: a refusal of the repeat does not heal what came before it."""
    answers = _etags(*etags)
    async with served(Side.VAST, lambda _: next(answers)) as (store, _):
        with pytest.raises(FederationError) as raised:
            await store.put("k", b"hello", Metadata(), stamp=None, expected_etag=None)
    assert raised.value.left_etag == left
    assert reason in ("", raised.value.reason)


async def test_a_large_write_tells_what_it_left_damaged() -> None:
    """What the commit made visible is not what the parts' hashes give."""

    def answer(request: web.Request) -> web.Response:
        body = f"<R><UploadId>u</UploadId><ETag>{'9' * 32}-1</ETag></R>" if request.method == "POST" else ""
        return web.Response(text=body, headers=MODIFIED | {"ETag": f'"{MD5}"'})

    async with served(Side.VAST, answer) as (store, _):
        assert isinstance(store, VastS3Store)
        upload = await store.begin_upload("k", Metadata(), stamp=None, size_bytes=5)
        await upload.put_part(1, b"hello")
        with pytest.raises(RetryLater) as raised:
            await upload.complete(expected_etag=None, md5_hex=MD5)
    assert (raised.value.reason, raised.value.left_etag) == ("checksum_mismatch", "9" * 32 + "-1")


async def test_a_damaged_copy_in_parts_is_not_left_where_it_would_pass_for_one() -> None:
    """A version that is kept under a name of its own: what is found there the next time counts as kept."""
    deleted: list[str] = []

    def answer(request: web.Request) -> web.Response:
        if request.method == "DELETE" and not request.query:
            deleted.append(f"{request.path} {request.headers['If-Match']}")
        if request.method == "HEAD" and request.path == "/b/copy" and not deleted:
            return web.Response(status=404)
        if request.method == "HEAD":
            return web.Response(headers=MODIFIED | {"ETag": f'"{MD5}"', "Content-Length": str(6 * 1024**3)})
        if request.method == "GET":
            return refusal(404, "NoSuchKey")
        etag = MD5 if request.method == "PUT" else "9" * 32 + "-12"
        return web.Response(text=f"<R><UploadId>u</UploadId><ETag>{etag}</ETag></R>")

    async with served(Side.VAST, answer) as (store, _):
        with pytest.raises(RetryLater) as raised:
            await store.copy("k", "copy", source_etag=MD5)
    assert raised.value.reason == "checksum_mismatch"
    assert deleted == [f'/b/copy "{"9" * 32}-12"']
