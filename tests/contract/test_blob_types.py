"""Page and append blobs on Azurite: read as content, and block blobs once VAST's version replaced them (docs/parked.md)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from uuid import uuid4

import pytest
from azure.storage.blob import BlobBlock, BlobClient, ContentSettings
from structlog.testing import capture_logs

from federation.errors import Park, Reobserve, RetryLater
from federation.model import Metadata, Side
from federation.stores import azure_recreate
from federation.stores.azure_blob import AzureBlobStore
from tests.contract.conftest import Case
from tests.contract.store_support import FULL, STAMP, get, listed_keys

pytestmark = pytest.mark.servers
OTHER_TYPES = ["AppendBlob", "PageBlob"]
OLD = b"o" * 512
MD5 = hashlib.md5(b"one-two", usedforsecurity=False).hexdigest()


@pytest.fixture
def unprepared(request: pytest.FixtureRequest) -> Case:
    """Azurite only."""
    servers = request.getfixturevalue("servers")
    return Case("azurite", servers, servers.s3, f"types-{uuid4().hex[:20]}")


def client(case: Case, key: str = "k") -> BlobClient:
    """The blob as its own tools see it."""
    assert case.servers is not None
    return BlobClient.from_connection_string(case.servers.blob_connection_string, case.container, key)


@pytest.mark.parametrize(("kind", "told"), [("BlockBlob", True), ("AppendBlob", False)])
async def test_a_range_brings_its_own_checksum(case: Case, store: AzureBlobStore, kind: str, told: bool) -> None:
    """Of a blob without a hash too; not where all that is told is the hash once stored for the whole."""
    with client(case) as blob:
        blob.upload_blob(OLD, blob_type="AppendBlob")
        blob.set_http_headers(ContentSettings(content_md5=bytearray(16)))
        if kind == "BlockBlob":
            blob.delete_blob()
            blob.stage_block("1", OLD)
            blob.commit_block_list([BlobBlock("1")])
    assert (await store.head("k")).version.md5 is None
    for start, length in ((0, 512), (100, 5)):
        reader = await store.open("k", start=start, length=length)
        assert (reader._content_md5 is not None) is (told or length < len(OLD))
        assert await reader.read() == OLD[:length]


@pytest.mark.parametrize("kind", OTHER_TYPES)
async def test_read_as_content_and_replaced_in_one_request(case: Case, store: AzureBlobStore, kind: str) -> None:
    """Its bytes are read like any other's; a small version of the other side takes its place, conditionally, and it is said."""
    with client(case) as blob, capture_logs() as said:
        blob.upload_blob(OLD, blob_type=kind)
        assert await get(store, "k") == OLD
        with pytest.raises(Reobserve):
            await store.put("k", b"new", Metadata(), stamp=None, expected_etag="0x0")
        await store.put("k", b"new", Metadata(), stamp=None, expected_etag=(await store.head("k")).version.etag)
        assert blob.get_blob_properties().blob_type == "BlockBlob"
    assert await get(store, "k") == b"new"
    assert [(line["event"], line["key"], line["was"]) for line in said] == [("recreated as a block blob", "k", kind)]


@pytest.mark.parametrize("kind", ["BlockBlob", *OTHER_TYPES])
async def test_only_a_block_blob_s_md5_tells_of_its_content(case: Case, store: AzureBlobStore, kind: str) -> None:
    """Appends and page writes leave Content-MD5 as it was once set: believed, they would look as if nothing had changed."""
    with client(case) as blob:
        blob.upload_blob(OLD, blob_type=kind)
        blob.set_http_headers(ContentSettings(content_md5=bytearray(hashlib.md5(OLD, usedforsecurity=False).digest())))
    known = hashlib.md5(OLD, usedforsecurity=False).hexdigest() if kind == "BlockBlob" else None
    assert (await store.head("k")).version.md5 == known
    reader = await store.open("k")
    assert reader.present.version.md5 == known
    await reader.close()
    assert [entry.md5 async for entry in store.list()] == [known]


@pytest.mark.parametrize("kind", OTHER_TYPES)
async def test_a_large_version_takes_its_place_whole(case: Case, store: AzureBlobStore, kind: str) -> None:
    """Blocks, metadata, stamp and MD5 arrive under the name, under the expected condition, and nothing is left behind."""
    with client(case) as blob, capture_logs() as said:
        blob.upload_blob(OLD, blob_type=kind)
        stale, upload = [await store.begin_upload("k", FULL, stamp=STAMP, size_bytes=7) for _ in range(2)]
        for one in (stale, upload):
            await one.put_part(2, b"two")
            await one.put_part(1, b"one-")
        with pytest.raises(Reobserve):
            await stale.complete(expected_etag="0x0", md5_hex=MD5)
        assert await get(store, "k") == OLD
        await stale.abort()
        result = await upload.complete(expected_etag=(await store.head("k")).version.etag, md5_hex=MD5)
        assert blob.get_blob_properties().blob_type == "BlockBlob"
    head = await store.head("k")
    assert (head.version.etag, head.version.md5, head.origin) == (result.etag, MD5, STAMP)
    assert head.metadata == replace(FULL, user=tuple(sorted(FULL.user)))
    assert await get(store, "k") == b"one-two"
    assert await listed_keys(store, prefix=".federation/") == []
    assert [(line["event"], line["key"]) for line in said] == [("recreated as a block blob", "k")]


@pytest.mark.parametrize("kind", ["BlockBlob", *OTHER_TYPES])
async def test_a_large_version_has_its_tags_and_its_tier(case: Case, kind: str) -> None:
    """Whatever type of blob it replaces: a copy on the server, as over a page or append blob, brings neither along by itself."""
    store, tags = case.make(map_tags=True), (("class", "a b"), ("team", "x"))
    with client(case, "cool/k") as blob:
        blob.upload_blob(OLD, blob_type=kind)
        upload = await store.begin_upload("cool/k", replace(FULL, tags=tags), stamp=STAMP, size_bytes=3)
        await upload.put_part(1, b"new")
        etag = (await store.head("cool/k")).version.etag
        await upload.complete(expected_etag=etag, md5_hex=hashlib.md5(b"new", usedforsecurity=False).hexdigest())
        found = blob.get_blob_properties()
        assert (found.blob_type, found.blob_tier) == ("BlockBlob", "Cool")
    assert (await store.head("cool/k")).metadata.tags == tags


async def interrupted(store: AzureBlobStore, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[int, str]]:
    """A large write that staged and committed everything, and was throttled as it took the name: its id and parts."""
    upload = await store.begin_upload("k", FULL, stamp=STAMP, size_bytes=7)
    parts = {number: await upload.put_part(number, data) for number, data in ((1, b"one-"), (2, b"two"))}

    async def throttled(*_: object) -> None:
        raise RetryLater("503", reason="throttled", side=Side.BLOB)

    etag = (await store.head("k")).version.etag
    with monkeypatch.context() as patched:
        patched.setattr(azure_recreate, "take_over", throttled)
        with pytest.raises(RetryLater):
            await upload.complete(expected_etag=etag, md5_hex=MD5)
    assert await listed_keys(store, prefix=".federation/") == [f".federation/staging/{upload.upload_id}"]
    return upload.upload_id, parts


@pytest.mark.parametrize("kind", OTHER_TYPES)
async def test_one_that_was_interrupted_as_it_took_the_name_is_gone_on_with(
    case: Case, store: AzureBlobStore, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Another process, whose parts are all there already, finds the staged ones, and leaves nothing behind."""
    with client(case) as blob:
        blob.upload_blob(OLD, blob_type=kind)
    upload_id, parts = await interrupted(store, monkeypatch)
    again = store.resume_upload("k", FULL, stamp=STAMP, upload_id=upload_id, parts=parts)
    result = await again.complete(expected_etag=(await store.head("k")).version.etag, md5_hex=MD5)
    head = await store.head("k")
    assert (head.version.etag, head.version.md5, head.origin) == (result.etag, MD5, STAMP)
    assert await get(store, "k") == b"one-two"
    assert await listed_keys(store, prefix=".federation/") == []


async def test_one_that_nobody_goes_on_with_leaves_nothing(
    case: Case, store: AzureBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sweep does, which knows the upload's id only: the staged copy goes, the blob stays."""
    with client(case) as blob:
        blob.upload_blob(OLD, blob_type="PageBlob")
    upload_id, _ = await interrupted(store, monkeypatch)
    for _ in range(2):
        await store.resume_upload("k", Metadata(), stamp=None, upload_id=upload_id, parts={}).abort()
    assert await listed_keys(store, prefix=".federation/") == []
    assert await get(store, "k") == OLD


async def test_without_a_stamp_a_large_one_is_parked(case: Case, store: AzureBlobStore) -> None:
    """Nothing would tell the empty blob of a crash from a user's, so the blob stays as it is."""
    with client(case) as blob:
        blob.upload_blob(OLD, blob_type="AppendBlob")
    upload = await store.begin_upload("k", FULL, stamp=None, size_bytes=3)
    with pytest.raises(Park) as error:
        await upload.put_part(1, b"new")
    assert (error.value.reason, error.value.side) == ("not_a_block_blob", Side.BLOB)
    assert await get(store, "k") == OLD
