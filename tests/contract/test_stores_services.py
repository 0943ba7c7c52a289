"""One contract for every object store and its twin: abilities, versions, tags, tiers, big metadata, copies beyond one request."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import AsyncMock

import pytest
import pytest_asyncio
from multidict import CIMultiDict

from federation.errors import NotPresent, Park, Reobserve, RetryLater
from federation.metadata import FORMS, to_side
from federation.model import Metadata, Side
from federation.ports import ObjectStore
from federation.record_ports import UploadLog
from federation.stores import azure_blob, pages, vast_s3, vast_upload
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.base import HttpStore, Request
from federation.stores.lane import Answer
from federation.stores.memory import MemoryStore
from federation.stores.vast_s3 import VastS3Store
from tests.contract.differences import NO_VERSIONS, PROBED
from tests.contract.store_support import FULL, ODD_KEYS, PART, STAMP, Made, get, listed_keys, put

if TYPE_CHECKING:
    from tests.contract.conftest import Case

KEEP_VERSIONS = (
    b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>'
)
TAGS = (("a b+c", "1/2:3=4_5-6.7"), ("empty", ""), ("plain", "x"))


async def test_the_probe_sees_what_the_document_says(case: Made) -> None:
    """docs/stores.md, cell by cell; of a server of one's own that it says the same twice."""
    found = await case.make().probe()
    assert found == (PROBED.get(case.kind) or await case.make().probe())


async def test_the_probe_works_where_nothing_may_be_deleted(case: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a retention policy the probe's own objects stay; what it finds is said all the same."""
    store = case.make()
    if not isinstance(store, HttpStore):
        pytest.skip("nothing is kept in memory")
    found = await case.make().probe()

    async def kept(*_: object) -> Answer:
        raise Park("kept", reason="worm", side=store.side)

    monkeypatch.setattr(store, "delete_probe", kept)
    assert await store.probe() == replace(found, conditional_delete=False)


@pytest.mark.parametrize("busy", ["Content-MD5", "tagging"])
async def test_a_throttle_ends_the_probe(case: Made, monkeypatch: pytest.MonkeyPatch, busy: str) -> None:
    """A server that is busy has not said that it cannot: nothing is found then, and nothing is left behind."""
    store = case.make()
    if not isinstance(store, HttpStore):
        pytest.skip("memory is never busy")
    before, put_probe = store.capabilities, store.put_probe

    async def throttled(key: str, headers: Mapping[str, str]) -> Answer:
        if busy == "tagging" or busy not in headers:
            return await put_probe(key, headers)
        raise RetryLater("503", reason="throttled", side=store.side)

    async def no_tags(*_: object) -> None:
        raise RetryLater("503", reason="throttled", side=store.side)

    monkeypatch.setattr(store, "put_probe", throttled)
    if busy == "tagging":
        monkeypatch.setattr(store, "write_tags", no_tags)
    with pytest.raises(RetryLater) as raised:
        await store.probe()
    assert raised.value.reason == "throttled"
    assert store.capabilities == before
    assert await listed_keys(store, prefix=".federation/probe/") == []


# --------------------------------------------------------------------------------------------------------------- versions


@pytest_asyncio.fixture
async def versioned(case: Case) -> ObjectStore:
    """A store that keeps versions, probed."""
    if case.kind in NO_VERSIONS:
        pytest.skip("keeps no versions")
    made = case.make()
    if isinstance(made, MemoryStore):
        made.capabilities = replace(made.capabilities, versioning=True)
    elif case.kind == "own-s3":
        if not (await made.probe()).versioning:
            pytest.skip("this bucket keeps no versions")
    elif isinstance(made, HttpStore):
        await made.call(Request("PUT", "PutBucketVersioning", query={"versioning": ""}, body=KEEP_VERSIONS))
    await made.probe()
    return made


async def test_versioning_is_seen(versioned: ObjectStore) -> None:
    """The probe read an overwritten and deleted version back by its id, and left no version of its own behind."""
    assert versioned.capabilities.versioning
    assert await listed_keys(versioned, prefix=".federation/") == []
    if isinstance(versioned, VastS3Store):
        query = {"versions": "", "prefix": versioned._prefix}
        answer = await versioned.call(Request("GET", "ListObjectVersions", query=query))
        assert b".federation/" not in answer.body


@pytest.mark.parametrize("how", ["overwritten", "deleted", "metadata replaced"])
async def test_an_old_version_is_read_back(case: Made, versioned: ObjectStore, how: str) -> None:
    """By its id, with content, metadata and stamp, whatever became of the current one; an id that never was is NotPresent."""
    first = await versioned.put("k", b"first", FULL, stamp=STAMP, expected_etag=None)
    before = await versioned.head("k")
    assert before.version.version_id
    current = await versioned.open_version("k", before.version.version_id)
    assert (await current.read(), current.present.version) == (b"first", before.version)
    if how == "overwritten":
        await put(versioned, "k", b"second", first.etag)
    elif how == "deleted":
        await versioned.delete("k", expected_etag=first.etag)
    else:
        await versioned.replace_metadata("k", Metadata(), stamp=None, expected_etag=first.etag)
    reader = await versioned.open_version("k", before.version.version_id)
    assert await reader.read() == b"first"
    if (how, case.kind) != ("metadata replaced", "versitygw"):  # there the old version takes the new metadata
        assert (reader.present.metadata, reader.present.origin) == (before.metadata, before.origin)
    if how == "deleted":
        with pytest.raises(NotPresent):
            await versioned.head("k")
        assert await listed_keys(versioned) == []
    with pytest.raises(NotPresent):
        await versioned.open_version("other", before.version.version_id)


# ------------------------------------------------------------------------------------------------------------------- tags


def _with_tags(case: Made, probed: ObjectStore) -> ObjectStore:
    if not probed.capabilities.tags:
        pytest.skip("this server keeps no tags")
    made = case.make(map_tags=True)
    made.capabilities = probed.capabilities
    return made


async def test_tags_travel_with_writes_and_copies(case: Made, store: ObjectStore) -> None:
    """Set by a write in one request and by a commit of parts, read by HEAD and GET, taken along by a copy, gone when none."""
    store = _with_tags(case, store)
    etag = (await store.put("k", b"data", replace(FULL, tags=TAGS), stamp=STAMP, expected_etag=None)).etag
    assert (await store.head("k")).metadata.tags == TAGS
    reader = await store.open("k")
    assert reader.present.metadata.tags == TAGS
    await reader.close()
    await store.copy("k", "copy", source_etag=etag)
    assert (await store.head("copy")).metadata.tags == TAGS
    upload = await store.begin_upload("k", replace(FULL, tags=TAGS[:1]), stamp=None, size_bytes=4)
    await upload.put_part(1, b"part")
    etag = (await upload.complete(expected_etag=etag, md5_hex=hashlib.md5(b"part", usedforsecurity=False).hexdigest())).etag
    assert (await store.head("k")).metadata.tags == TAGS[:1]
    await store.put("k", b"data", Metadata(tags=()), stamp=None, expected_etag=etag)
    assert (await store.head("k")).metadata.tags == ()


async def test_tags_alone_are_replaced_without_a_new_version(case: Made, store: ObjectStore) -> None:
    """No data, no ETag and no header moves; of another version it is Reobserve."""
    store = _with_tags(case, store)
    etag = (await store.put("k", b"data", replace(FULL, tags=TAGS), stamp=STAMP, expected_etag=None)).etag
    before = await store.head("k")
    kept = TAGS[1:] if case.kind != "azurite" else TAGS[2:]  # it refuses an empty value here
    for tags in (kept, ()):
        result = await store.replace_metadata("k", replace(FULL, tags=tags), stamp=STAMP, expected_etag=etag)
        after = await store.head("k")
        assert after == replace(before, metadata=replace(before.metadata, tags=tags))
        assert result.etag == etag
    with pytest.raises(Reobserve):
        await store.replace_metadata("k", replace(FULL, tags=TAGS), stamp=STAMP, expected_etag="0" * 32)
    assert (await store.head("k")).metadata.tags == ()


async def test_metadata_and_tags_together(case: Made, store: ObjectStore) -> None:
    """Both differ: both are replaced, the content stays."""
    store = _with_tags(case, store)
    etag = (await store.put("k", b"data", Metadata(tags=TAGS), stamp=None, expected_etag=None)).etag
    new = Metadata(content_type="text/html", user=(("a", "1"),), tags=TAGS[:1])
    await store.replace_metadata("k", new, stamp=None, expected_etag=etag)
    found = (await store.head("k")).metadata
    assert (found.content_type, found.user, found.tags) == (new.content_type, new.user, new.tags)
    assert await get(store, "k") == b"data"


async def test_unmapped_tags_are_not_looked_at(store: ObjectStore) -> None:
    """Without the mapping nothing is asked or said about tags."""
    await put(store, "k")
    assert (await store.head("k")).metadata.tags is None


# -------------------------------------------------------------------------------------------------- tiers and big metadata


async def test_the_tier_of_a_new_blob_follows_its_prefix(store: ObjectStore) -> None:
    """Written in one request or in parts, under the prefix of a tier it has that tier, elsewhere the account's own."""
    if not isinstance(store, AzureBlobStore):
        pytest.skip("S3 has no access tiers")
    for key in ("cool/a", "warm"):
        await put(store, key)
    upload = await store.begin_upload("cool/b", Metadata(), stamp=None, size_bytes=4)
    await upload.put_part(1, b"part")
    await upload.complete(expected_etag=None, md5_hex=hashlib.md5(b"part", usedforsecurity=False).hexdigest())
    tiers = {}
    for key in ("cool/a", "cool/b", "warm"):
        tiers[key] = (await store.call(Request("HEAD", "HEAD", key, key=key))).headers.get("x-ms-access-tier")
    assert tiers == {"cool/a": "Cool", "cool/b": "Cool", "warm": "Hot"}


async def test_metadata_up_to_the_limit_of_the_side(store: ObjectStore) -> None:
    """All that the side is said to take is taken and comes back, in many entries and in one."""
    limit = FORMS[store.side].limit_bytes
    many = tuple((f"n{i:04d}", "v" * (limit // 16 - 5)) for i in range(16))
    for key, user in (("many", many), ("one", (("n", "v" * (limit - 1)),))):
        result = await store.put(key, b"data", Metadata(user=user), stamp=None, expected_etag=None)
        assert not result.lossy
        assert (await store.head(key)).metadata.user == user


# ------------------------------------------------------------------------------------------------------------------ copies


async def test_a_copy_beyond_one_request_goes_in_parts(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit of one request the server copies part by part, of the expected version only, with all that belongs to it."""
    if not isinstance(store, VastS3Store):
        pytest.skip("one request copies any size")
    monkeypatch.setattr(vast_s3, "COPY_LIMIT_BYTES", PART)
    monkeypatch.setattr(vast_upload, "COPY_PART_BYTES", PART)
    data = b"a" * PART + b"b" * PART + b"tail"
    etag = (await store.put("k", data, FULL, stamp=STAMP, expected_etag=None)).etag
    with pytest.raises(Reobserve):
        await store.copy("k", "stale", source_etag="0" * 32)
    copied = await store.copy("k", "copy", source_etag=etag)
    head = await store.head("copy")
    assert (head.version.etag, head.version.size_bytes) == (copied.etag, len(data))
    assert copied.etag.endswith("-3")
    assert (head.metadata, head.origin) == ((await store.head("k")).metadata, STAMP)
    assert await get(store, "copy") == data
    assert await listed_keys(store) == ["copy", "k"]


async def test_a_copy_in_parts_brings_tags_along_that_are_not_mapped(
    case: Made, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one in one request does, onto another name or onto itself: without the mapping tags are nobody's to drop."""
    if not isinstance(store, VastS3Store):
        pytest.skip("one request copies any size")
    monkeypatch.setattr(vast_s3, "COPY_LIMIT_BYTES", PART)
    monkeypatch.setattr(vast_upload, "COPY_PART_BYTES", PART)
    tagged = _with_tags(case, store)
    await tagged.put("k", b"a" * (PART + 1), Metadata(tags=TAGS), stamp=None, expected_etag=None)
    source = await store.head("k")
    await store.copy("k", "copy", source_etag=source.version.etag)
    new = to_side(Metadata(content_type="text/html"), None, Side.VAST)
    etag = source.version.etag
    await vast_upload.copy_in_parts(store, "k", "k", source, new, expected_etag=etag, target_etag=etag)
    for key in ("copy", "k"):
        assert (await tagged.head(key)).metadata.tags == TAGS
    assert (await store.head("k")).metadata.content_type == "text/html"


async def test_metadata_set_while_an_object_is_copied_onto_itself_is_not_lost(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the ETag, and the parts of a large object take minutes: who wrote it is found, and decided about anew."""
    if not isinstance(store, VastS3Store):
        pytest.skip("one request copies any size")
    monkeypatch.setattr(vast_upload, "COPY_PART_BYTES", PART)
    etag = await put(store, "k", b"a" * PART + b"tail")
    source, copy_part = await store.head("k"), vast_upload.S3Upload.copy_part
    theirs = Metadata(content_type="text/css", user=(("by", "a user"),))

    async def slowly(upload: vast_upload.S3Upload, number: int, headers: Mapping[str, str]) -> None:
        await copy_part(upload, number, headers)
        if number == 1:
            assert (await store.replace_metadata("k", theirs, stamp=None, expected_etag=etag)).etag == etag

    monkeypatch.setattr(vast_upload.S3Upload, "copy_part", slowly)
    new = to_side(Metadata(content_type="text/html"), None, Side.VAST)
    with pytest.raises(Reobserve):
        await vast_upload.copy_in_parts(store, "k", "k", source, new, expected_etag=etag, target_etag=etag)
    assert (await store.head("k")).metadata.user == theirs.user


@pytest.mark.parametrize("how", ["done", "cancelled", "not recorded"])
async def test_a_copy_in_parts_is_on_record_while_it_is_under_way(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Told of before its first part; however it ends, no upload is left, and the last word is that it ended."""
    if not isinstance(store, VastS3Store):
        pytest.skip("one request copies any size")
    monkeypatch.setattr(vast_s3, "COPY_LIMIT_BYTES", PART)
    monkeypatch.setattr(vast_upload, "COPY_PART_BYTES", PART)
    log = AsyncMock(spec=UploadLog)
    monkeypatch.setattr(store, "uploads", log)
    etag = await put(store, "k", b"a" * PART + b"tail")
    if how == "cancelled":
        monkeypatch.setattr(vast_upload.S3Upload, "copy_part", AsyncMock(side_effect=asyncio.CancelledError))
    elif how == "not recorded":
        log.begun.side_effect = RetryLater("away", reason="redis_unavailable")
    ends: dict[str, AbstractContextManager[object]] = {
        "done": nullcontext(),
        "cancelled": pytest.raises(asyncio.CancelledError),
        "not recorded": pytest.raises(RetryLater),
    }
    with ends[how]:
        await store.copy("k", "copy", source_etag=etag)
    [(key, upload_id)] = [call.args for call in log.begun.await_args_list]
    assert key == "copy"
    assert [call.args for call in log.ended.await_args_list] == [(upload_id,)]
    left = await store.call(Request("GET", "ListMultipartUploads", query={"uploads": ""}))
    assert upload_id.encode() not in left.body


async def test_a_copy_in_the_background_is_waited_for(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told "pending", one asks until it is done, and has the ETag of the finished copy."""
    if not isinstance(store, AzureBlobStore):
        pytest.skip("S3 copies while one waits")
    monkeypatch.setattr(azure_blob, "_COPY_POLL_SECONDS", 0)
    etag = await put(store, "k")
    told = ["pending", "pending", "success"]
    call = store.call

    async def slow(request: Request) -> Answer:
        answer = await call(request)
        if "x-ms-copy-status" not in answer.headers:
            return answer
        return Answer(answer.status, CIMultiDict({**answer.headers, "x-ms-copy-status": told.pop(0)}), answer.body)

    monkeypatch.setattr(store, "call", slow)
    result = await store.copy("k", "copy", source_etag=etag)
    assert told == []
    assert (await call(Request("HEAD", "HEAD", "copy", key="copy"))).headers["ETag"].strip('"') == result.etag


# ------------------------------------------------------------------------------------- servers that ignore conditions (rule 5)


async def test_without_conditions_it_looks_right_before_and_counts(store: ObjectStore) -> None:
    """A write, a delete and a commit of another version are refused by a look, and every such window is counted."""
    none = replace(store.capabilities, conditional_put=False, conditional_delete=False, conditional_complete=False)
    store.capabilities = none
    etag = await put(store, "k")
    upload = await store.begin_upload("k", Metadata(), stamp=None, size_bytes=4)
    await upload.put_part(1, b"part")
    windows = store.race_windows
    for call in (
        put(store, "k", b"other", "0" * 32),
        store.delete("k", expected_etag="0" * 32),
        upload.complete(expected_etag="0" * 32, md5_hex=hashlib.md5(b"part", usedforsecurity=False).hexdigest()),
    ):
        with pytest.raises(Reobserve):
            await call
    await upload.abort()
    assert await get(store, "k") == b"data"
    await store.delete("k", expected_etag=etag)
    assert windows > 0 or store.side is Side.BLOB
    assert store.race_windows > windows


# ------------------------------------------------------------------------------------------------------------------- lists


async def test_a_real_page_read_as_text_is_what_the_parser_reads(store: ObjectStore, case: Made) -> None:
    """Of names with every odd character, the server's own page gives the same entries by text search and by the XML parser."""
    if not isinstance(store, HttpStore):
        pytest.skip("no pages in memory")
    for key in ODD_KEYS:
        if case.kind != "moto" or "\n" not in key:
            await put(store, key)
    body = await store.list_page("", 1_000)
    azure = store.side is Side.BLOB
    by_text = pages._azure_text(body) if azure else pages._s3_text(body)
    assert by_text == (pages._azure_tree(body) if azure else pages._s3_tree(body))
