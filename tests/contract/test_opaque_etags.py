"""The contract on S3 servers whose ETags look like hashes of contents and are none: KMS keys, customers' keys, tokens."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from uuid import uuid4

import pytest
import pytest_asyncio

from federation.capabilities import Capabilities
from federation.errors import RetryLater
from federation.model import ETagKind, Metadata, s3_etag_kind
from federation.ports import ObjectStore
from federation.stores.base import Request
from federation.stores.vast_s3 import VastS3Store
from tests.contract import test_resume, test_stores, test_stores_services, test_stores_writing
from tests.contract.conftest import Case, S3Address, Servers
from tests.contract.differences import PROBED
from tests.contract.opaque_server import CUSTOMER_KEY, DSSE, KMS, OpaqueETags, opaque_etags
from tests.contract.store_support import FULL, PART, get, listed, put

pytestmark = pytest.mark.servers

PROMISES: tuple[Callable[[ObjectStore], Awaitable[None]], ...] = (
    test_stores_writing.test_create_only_when_absent,
    test_stores_writing.test_overwrite_only_the_expected_version,
    test_stores_writing.test_replace_metadata_is_conditional,
    test_stores_writing.test_delete_is_conditional_and_idempotent,
    test_stores_writing.test_copy_takes_everything_along_once,
    test_stores_writing.test_copy_is_of_the_expected_version,
    test_stores_writing.test_upload_in_parts,
    test_stores_writing.test_upload_commit_is_conditional,
    test_stores_writing.test_abort_leaves_nothing,
    test_stores.test_open_is_conditional_and_can_be_dropped,
    test_stores.test_probe_leaves_nothing_behind,
    test_stores_services.test_without_conditions_it_looks_right_before_and_counts,
    test_resume.test_completing_an_upload_that_is_gone_writes_nothing,
)
KNOWN = replace(PROBED["moto"], etag_is_md5=False, checksums=True)
Made = tuple[VastS3Store, OpaqueETags]


async def made(servers: Servers, headers: dict[str, str], name: str) -> AsyncIterator[Made]:
    """A store on such a server, with a bucket of its own."""
    async with opaque_etags(servers.s3.endpoint, headers) as (endpoint, server):
        address = S3Address(endpoint, servers.s3.access_key, servers.s3.secret_key)
        store = Case("opaque", servers, address, name).make()
        assert isinstance(store, VastS3Store)
        try:
            await store.call(Request("PUT", "create bucket"))
            yield store, server
        finally:
            await store.close()


@pytest_asyncio.fixture(params=[KMS, DSSE, CUSTOMER_KEY, {}], ids=["kms", "dsse", "sse-c", "tokens"])
async def opaque(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[Made]:
    """Each kind of server, known."""
    async for store, server in made(servers, request.param, f"opaque-{uuid4().hex[:20]}"):
        store.capabilities = KNOWN
        yield store, server


@pytest_asyncio.fixture
async def unforeseen(servers: Servers) -> AsyncIterator[VastS3Store]:
    """A bucket that was seen to answer MD5s, of whose objects some are under a KMS key."""
    async for store, _ in made(servers, KMS, f"opaque-{uuid4().hex[:20]}"):
        store.capabilities = replace(PROBED["moto"], etag_is_md5=True, checksums=True)
        yield store


async def test_the_probe_sees_that_etags_are_no_hashes(opaque: Made) -> None:
    """Whether or not a header says why; all else is found as on the server behind."""
    store, _ = opaque
    store.capabilities = Capabilities()
    assert await store.probe() == KNOWN
    assert await store.probe() == KNOWN, "not taken for what it was"


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__.removeprefix("test_"))
async def test_the_contract_holds(opaque: Made, promise: Callable[[ObjectStore], Awaitable[None]]) -> None:
    """What the port promises does not rest on ETags being hashes."""
    await promise(opaque[0])


async def test_an_etag_that_is_no_hash_is_taken_for_none(opaque: Made) -> None:
    """Neither a look, nor a read, nor a listing tells an MD5, and the listed ETag is the one that HEAD tells."""
    store, _ = opaque
    etag = await put(store, "k", b"content")
    assert s3_etag_kind(etag) is ETagKind.MD5, "it looks like one"
    head, reader = await store.head("k"), await store.open("k")
    for found in (head.version, reader.present.version):
        assert (found.etag, found.etag_kind, found.md5) == (etag, ETagKind.OPAQUE, None)
    assert await reader.read() == b"content"
    assert [(entry.key, entry.etag, entry.md5) for entry in await listed(store)] == [("k", etag, None)]


async def test_new_metadata_and_copies_are_no_damage(opaque: Made) -> None:
    """Each gets an ETag of its own though the content is the same: nothing is undone or repeated for that."""
    store, _ = opaque
    etag = await put(store, "k", b"content")
    replaced = await store.replace_metadata("k", FULL, stamp=None, expected_etag=etag)
    copied = await store.copy("k", "copy", source_etag=replaced.etag)
    assert len({etag, replaced.etag, copied.etag}) == 3
    assert (await store.head("k")).metadata.content_type == FULL.content_type
    assert await get(store, "copy") == b"content"


async def test_damage_is_refused_by_the_checksum_that_is_sent_along(opaque: Made) -> None:
    """Where no ETag proves what arrived, Content-MD5 does: of objects and of parts; nothing is written."""
    store, server = opaque
    upload = await store.begin_upload("big", Metadata(), stamp=None, size_bytes=PART)
    server.damages_writes = True
    for writing in (put(store, "k", b"content"), upload.put_part(1, b"x" * PART)):
        with pytest.raises(RetryLater) as raised:
            await writing
        assert raised.value.reason == "checksum_mismatch"
    server.damages_writes = False
    assert await listed(store) == []
    await upload.abort()


async def test_headers_alone_are_believed(unforeseen: VastS3Store) -> None:
    """Objects under a KMS key in a bucket whose other ETags are hashes are written, in parts too, copied and read."""
    store = unforeseen
    etag = await put(store, "k", b"content")
    etag = (await store.replace_metadata("k", FULL, stamp=None, expected_etag=etag)).etag
    await store.copy("k", "copy", source_etag=etag)
    upload = await store.begin_upload("big", Metadata(), stamp=None, size_bytes=PART + 1)
    await upload.put_part(1, b"x" * PART)
    await upload.put_part(2, b"y")
    md5 = hashlib.md5(b"x" * PART + b"y", usedforsecurity=False).hexdigest()
    result = await upload.complete(expected_etag=None, md5_hex=md5)
    assert (await store.head("big")).version.etag == result.etag
    for key in ("k", "copy", "big"):
        version = (await store.head(key)).version
        assert (version.etag_kind, version.md5) == (ETagKind.OPAQUE, None)
