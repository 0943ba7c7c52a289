"""The engine over a bucket whose ETags look like hashes of contents and are none (SSE-KMS, tokens), and keys that we have not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from federation.errors import Park, RetryLater
from federation.model import ETagKind, Metadata, Side
from federation.rules.decision import Action
from federation.stores import wire
from federation.stores.vast_s3 import VastS3Store
from federation.sync.sync_key import sync_key
from tests.unit.world import World

MD5 = "5d41402abc4b2a76b9719d911017c592"
CONTENT = "x" * 50
LARGE = "y" * 100


def opaque() -> World:
    """VAST gives every version a token of its own."""
    world = World()
    store = world.raw[Side.VAST]
    store.capabilities = replace(store.capabilities, etag_is_md5=False)
    return world


@pytest.mark.parametrize(
    ("etag", "headers", "kind"),
    [
        (MD5, {}, ETagKind.MD5),
        (MD5, {"x-amz-server-side-encryption": "AES256"}, ETagKind.MD5),
        (MD5, {"x-amz-server-side-encryption": "aws:kms"}, ETagKind.OPAQUE),
        (MD5, {"x-amz-server-side-encryption": "aws:kms:dsse"}, ETagKind.OPAQUE),
        (MD5, {"x-amz-server-side-encryption-customer-algorithm": "AES256"}, ETagKind.OPAQUE),
        (f"{MD5}-2", {}, ETagKind.MULTIPART),
        (f"{MD5}-2", {"x-amz-server-side-encryption": "aws:kms"}, ETagKind.OPAQUE),
        ("48ed760a74" + "0" * 22, {"x-amz-server-side-encryption": "aws:kms"}, ETagKind.FILE_SIDE),
        ("5d41402a-bc4b-2a76-b971-9d911017c592", {}, ETagKind.OPAQUE),
        (f"{MD5}-x", {}, ETagKind.OPAQUE),
    ],
)
def test_what_an_etag_says_depends_on_how_its_object_is_encrypted(etag: str, headers: dict[str, str], kind: ETagKind) -> None:
    """Only S3's own encryption leaves hashes; what has another shape is a token, a dash in it or not."""
    assert wire.s3_kind(etag, headers) is kind
    assert wire.s3_kind(etag, headers, hashes=False) in (ETagKind.OPAQUE, ETagKind.FILE_SIDE)


@pytest.mark.parametrize("text", [CONTENT, LARGE], ids=["small", "large"])
async def test_equal_contents_are_read_and_adopted(text: str) -> None:
    """A first meeting of equal contents is no conflict, and writes nothing."""
    world = opaque()
    etags = [await world.write(side, "a", text) for side in Side]
    [synced] = await world.step()
    assert synced.decision.action is Action.ADOPT
    assert [(await world.raw[side].head("a")).version.etag for side in Side] == etags
    assert await world.state.conflicts() == []


@pytest.mark.parametrize("text", [CONTENT, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("side", list(Side))
async def test_what_users_do_travels(side: Side, text: str) -> None:
    """New, metadata, overwritten, deleted: as with hashes, without a conflict."""
    world = opaque()
    await world.write(side, "a", text)
    await world.step()
    assert await world.both("a") == (text, text)
    world.later()
    etag = (await world.raw[side].head("a")).version.etag
    new = await world.raw[side].replace_metadata("a", Metadata(content_type="text/x"), stamp=None, expected_etag=etag)
    await world.tell(side, "a", etag=new.etag)
    [synced] = await world.step()
    assert (await world.raw[side.other].head("a")).metadata.content_type == "text/x"
    assert synced.decision.action in (Action.METADATA, Action.COPY)
    world.later()
    await world.write(side, "a", text.upper())
    await world.step()
    assert await world.both("a") == (text.upper(), text.upper())
    world.later()
    await world.remove(side, "a")
    await world.step()
    assert await world.both("a") == (None, None)
    assert await world.state.conflicts() == []


@pytest.mark.parametrize("hashed", [True, False])
async def test_a_write_over_our_unrecorded_copy_that_carries_its_stamp_along_is_seen(hashed: bool) -> None:
    """A tool that reads, changes and writes keeps metadata: where the ETag is no hash, what may be our copy is read."""
    world = World() if hashed else opaque()
    await world.write(Side.BLOB, "a", "one")
    lease = await world.state.acquire(0, owner="dies", ttl_seconds=1e9)
    assert lease is not None
    [claim] = await world.state.claim(lease, limit=1, now_us=world.clock.us)
    await sync_key(world.ctx, lease, claim)
    await world.state.release(lease)
    world.later(30)
    store = world.raw[Side.VAST]
    seen = await store.head("a")
    stamp = store.objects["a"].stamp
    assert stamp is not None
    theirs = await store.put("a", b"two", seen.metadata, stamp=stamp, expected_etag=seen.version.etag)
    await world.tell(Side.VAST, "a", etag=theirs.etag)
    await world.step()
    assert await world.both("a") == ("two", "two")


@pytest.mark.parametrize("hashed", [True, False])
async def test_our_copy_is_no_second_writer_once_the_state_is_lost(hashed: bool) -> None:
    """An edit to another size is carried over without a conflict: what bears our stamp is read before it counts as a write."""
    world = World() if hashed else opaque()
    await world.write(Side.BLOB, "a", "one")
    await world.step()
    world.later(30)
    world.forget()
    await world.write(Side.BLOB, "a", "longer")
    await world.look("a")
    await world.step()
    assert await world.both("a") == ("longer", "longer")
    assert await world.state.conflicts() == []


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As AWS speaks of an object under a customer's key: a HEAD learns nothing, a GET why."""
    asked = await reader.readuntil(b"\r\n\r\n")
    words = b"The object was stored using a form of Server Side Encryption. The correct parameters must be provided."
    body = b"" if asked.startswith(b"HEAD") else b"<Error><Code>InvalidRequest</Code><Message>" + words + b"</Message></Error>"
    if b"/odd " in asked and not asked.startswith(b"HEAD"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: x\r\nConnection: close\r\n\r\n")
    else:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


async def test_an_object_under_a_customer_s_key_is_parked_as_that() -> None:
    """With the reason that a person can act on, whether it is looked at or read."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    store = VastS3Store(endpoint=endpoint, bucket="b", access_key="key", secret_key="secret")
    try:
        async with server:
            for asking in (store.head("k"), store.open("k")):
                with pytest.raises(Park) as parked:
                    await asking
                assert parked.value.reason == "customer_key"
            with pytest.raises(RetryLater) as odd:
                await store.head("odd")
            assert odd.value.reason == "bad_answer"
    finally:
        await store.close()
