"""One contract for every object store and its twin: conditional writes, metadata, copies and uploads in parts."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from federation.errors import NotPresent, Reobserve, RetryLater
from federation.model import ETagKind, Metadata, Side
from federation.ports import ObjectStore
from federation.stores.base import HttpStore, Request
from federation.stores.lane import Answer
from federation.stores.memory import MemoryStore
from tests.contract.store_support import FULL, PART, STAMP, Made, get, listed_keys, put


async def test_create_only_when_absent(store: ObjectStore) -> None:
    """A write that expects absence creates once; the second is Reobserve and changes nothing."""
    etag = await put(store, "k", b"first")
    with pytest.raises(Reobserve):
        await put(store, "k", b"second")
    assert await get(store, "k") == b"first"
    assert (await store.head("k")).version.etag == etag


async def test_overwrite_only_the_expected_version(store: ObjectStore) -> None:
    """A write that expects a version replaces that one; stale or vanished, it is Reobserve and changes nothing."""
    first = await put(store, "k", b"first")
    second = await put(store, "k", b"second", first)
    with pytest.raises(Reobserve):
        await put(store, "k", b"third", first)
    assert await get(store, "k") == b"second"
    await store.delete("k", expected_etag=second)
    with pytest.raises(Reobserve):
        await put(store, "k", b"fourth", second)
    with pytest.raises(NotPresent):
        await store.head("k")


async def test_metadata_and_stamp_round_trip(store: ObjectStore) -> None:
    """Headers, odd user metadata and the stamp come back as written, by HEAD and by GET, and nothing is lost."""
    result = await store.put("k", b"data", FULL, stamp=STAMP, expected_etag=None)
    assert not result.lossy
    head = await store.head("k")
    assert head.metadata == replace(FULL, user=tuple(sorted(FULL.user)))
    assert head.origin == STAMP
    reader = await store.open("k")
    assert reader.present == head
    await reader.close()


async def test_metadata_that_does_not_fit_is_left_out(store: ObjectStore) -> None:
    """What a side cannot hold is left out, and the write says so."""
    user = tuple((f"name-{i:03d}", "v" * 90) for i in range(100))
    result = await store.put("k", b"data", Metadata(user=user), stamp=None, expected_etag=None)
    assert result.lossy
    kept = (await store.head("k")).metadata.user
    assert 0 < len(kept) < len(user)
    assert set(kept) <= set(user)


async def test_replace_metadata_keeps_content(store: ObjectStore, case: Made) -> None:
    """Headers and user metadata are replaced whole; content, size and MD5 stay."""
    first = (await store.put("k", b"data", FULL, stamp=STAMP, expected_etag=None)).etag
    before = (await store.head("k")).version
    new = Metadata(content_type="text/html", user=(("other", "1"),))
    result = await store.replace_metadata("k", new, stamp=None, expected_etag=first)
    after = await store.head("k")
    if case.kind == "versitygw":  # it keeps headers that the replacement does not name
        new = replace(FULL, content_type=new.content_type, user=new.user)
    assert (after.metadata, after.origin) == (new, None)
    assert after.version.etag == result.etag
    assert (after.version.md5, after.version.size_bytes) == (before.md5, before.size_bytes)
    assert await get(store, "k") == b"data"


async def _cut_before_user_metadata(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blob's second request for new metadata gets no answer."""
    cut = RetryLater("cut", reason="cut_short", side=store.side)
    if isinstance(store, MemoryStore):
        store.fail_next("set_metadata", cut)
        return
    assert isinstance(store, HttpStore)
    call = store.call

    async def refused(request: Request) -> Answer:
        if request.query == {"comp": "metadata"}:
            raise cut
        return await call(request)

    monkeypatch.setattr(store, "call", refused)


async def test_what_stands_between_two_requests_for_metadata_is_told_before(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the second does not come about, the object has what was told, its content and the stamp of before."""
    first = (await store.put("k", b"data", FULL, stamp=STAMP, expected_etag=None)).etag
    told: list[Metadata] = []

    async def halfway(held: Metadata) -> None:
        assert (await store.head("k")).version.etag == first
        told.append(held)

    new = Metadata(content_type="text/html", user=(("other", "1"),))
    if store.side is Side.VAST:
        await store.replace_metadata("k", new, stamp=None, expected_etag=first, halfway=halfway)
        assert told == []
        return
    await _cut_before_user_metadata(store, monkeypatch)
    with pytest.raises(RetryLater):
        await store.replace_metadata("k", new, stamp=None, expected_etag=first, halfway=halfway)
    after = await store.head("k")
    assert told == [after.metadata] == [Metadata("text/html", user=tuple(sorted(FULL.user)))]
    assert (after.origin, await get(store, "k")) == (STAMP, b"data")


@pytest.mark.parametrize("new", [replace(FULL, content_type="text/html"), replace(FULL, user=())])
async def test_metadata_that_takes_one_request_has_no_halfway(store: ObjectStore, new: Metadata) -> None:
    """Only headers, or only user metadata."""
    first = (await store.put("k", b"data", FULL, stamp=None, expected_etag=None)).etag

    async def halfway(held: Metadata) -> None:
        raise AssertionError(held)

    await store.replace_metadata("k", new, stamp=None, expected_etag=first, halfway=halfway)
    assert (await store.head("k")).metadata == replace(new, user=tuple(sorted(new.user)))


async def test_replace_metadata_is_conditional(store: ObjectStore) -> None:
    """Of another version it is Reobserve and changes nothing; of nothing it is NotPresent."""
    await put(store, "k", b"data")
    with pytest.raises(Reobserve):
        await store.replace_metadata("k", FULL, stamp=None, expected_etag="0" * 32)
    assert (await store.head("k")).metadata.user == ()
    with pytest.raises(NotPresent):
        await store.replace_metadata("nothing", FULL, stamp=None, expected_etag="0" * 32)


async def test_delete_is_conditional_and_idempotent(store: ObjectStore) -> None:
    """Another version is Reobserve and stays; the expected one goes; an object already gone is success."""
    etag = await put(store, "k")
    with pytest.raises(Reobserve):
        await store.delete("k", expected_etag="0" * 32)
    assert await get(store, "k") == b"data"
    await store.delete("k", expected_etag=etag)
    await store.delete("k", expected_etag=etag)
    with pytest.raises(NotPresent):
        await store.head("k")


async def test_copy_takes_everything_along_once(store: ObjectStore) -> None:
    """A server-side copy has content, metadata and stamp; repeating it leaves the first copy alone."""
    source = (await store.put("k", b"data", FULL, stamp=STAMP, expected_etag=None)).etag
    target = ".federation/conflicts/k~blob~20240101T000000Z~abc"
    first = await store.copy("k", target, source_etag=source)
    copied, original = await store.head(target), await store.head("k")
    assert (copied.metadata, copied.origin, copied.version.md5) == (original.metadata, original.origin, original.version.md5)
    assert await get(store, target) == b"data"
    assert await store.copy("k", target, source_etag=source) == first
    assert (await store.head(target)).version.etag == first.etag


async def test_copy_is_of_the_expected_version(store: ObjectStore) -> None:
    """A source that is another version is Reobserve, a source that is gone NotPresent; neither leaves a copy."""
    await put(store, "k")
    with pytest.raises(Reobserve):
        await store.copy("k", "copy", source_etag="0" * 32)
    with pytest.raises(NotPresent):
        await store.copy("nothing", "copy", source_etag="0" * 32)
    assert await listed_keys(store) == ["k"]


async def test_upload_in_parts(store: ObjectStore) -> None:
    """Parts sent out of order and twice give one object; it is invisible before the commit and keeps its metadata."""
    first, last = b"a" * PART, b"z" * 17
    md5 = hashlib.md5(first + last, usedforsecurity=False).hexdigest()
    upload = await store.begin_upload("big", FULL, stamp=STAMP, size_bytes=PART + 17)
    await upload.put_part(2, last)
    await upload.put_part(1, b"b" * PART)
    await upload.put_part(1, first)
    assert await listed_keys(store) == []
    result = await upload.complete(expected_etag=None, md5_hex=md5)
    head = await store.head("big")
    assert (head.version.etag, head.version.size_bytes) == (result.etag, PART + 17)
    assert head.version.md5 == (md5 if store.side is Side.BLOB else None)
    assert head.version.etag_kind is (ETagKind.MULTIPART if store.capabilities.etag_is_md5 else ETagKind.OPAQUE)
    assert (head.metadata.content_type, head.origin) == (FULL.content_type, STAMP)
    assert await get(store, "big") == first + last


async def test_upload_commit_is_conditional(store: ObjectStore) -> None:
    """A commit that expects absence, or a version that is no longer there, is Reobserve and changes nothing."""
    etag = await put(store, "k", b"first")
    for expected in (None, "0" * 32):
        upload = await store.begin_upload("k", Metadata(), stamp=None, size_bytes=4)
        await upload.put_part(1, b"part")
        with pytest.raises(Reobserve):
            await upload.complete(expected_etag=expected, md5_hex=hashlib.md5(b"part", usedforsecurity=False).hexdigest())
        await upload.abort()
    assert await get(store, "k") == b"first"
    upload = await store.begin_upload("k", Metadata(), stamp=None, size_bytes=4)
    await upload.put_part(1, b"part")
    await upload.complete(expected_etag=etag, md5_hex=hashlib.md5(b"part", usedforsecurity=False).hexdigest())
    assert await get(store, "k") == b"part"


async def test_abort_leaves_nothing(store: ObjectStore) -> None:
    """An aborted upload leaves no object; aborting twice is fine."""
    upload = await store.begin_upload("k", Metadata(), stamp=None, size_bytes=4)
    await upload.put_part(1, b"part")
    await upload.abort()
    await upload.abort()
    with pytest.raises(NotPresent):
        await store.head("k")
    assert await listed_keys(store) == []
