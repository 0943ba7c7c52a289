"""A new name that is a folder of others, on S3 servers that keep objects as files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from aiohttp import web

from federation.errors import Park, Reobserve
from federation.model import Metadata, Side
from federation.stores.vast_s3 import VastS3Store
from federation.stores.vast_upload import S3Upload
from tests.unit.store_server import EMPTY, Answers, refusal, served

LIST = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>nc/</Prefix><MaxKeys>1</MaxKeys>
<IsTruncated>false</IsTruncated>{}<EncodingType>url</EncodingType><KeyCount>1</KeyCount></ListBucketResult>"""
BELOW = """<Contents><Key>nc/b</Key><ETag>&#34;c81e728d9d4c2f636f067f89cc14862c&#34;</ETag><Size>1</Size>
<StorageClass>STANDARD</StorageClass><LastModified>2026-11-22T20:58:33Z</LastModified></Contents>"""


def _server(*, there: bool, below: bool) -> Answers:
    """SeaweedFS 4.44, asked for ``nc`` with ``nc/b`` in the bucket: 412 to a write on absence, 404 to a look."""

    def answers(request: web.Request) -> web.Response:
        if request.method in {"PUT", "POST"}:
            return refusal(412, "PreconditionFailed")
        if "list-type" in request.query:
            assert request.query["prefix"] == "nc/"
            return web.Response(text=LIST.format(BELOW if below else ""))
        return web.Response(headers=EMPTY) if there else refusal(404, "NoSuchKey")

    return answers


async def _put(store: VastS3Store) -> object:
    return await store.put("nc", b"1", Metadata(), stamp=None, expected_etag=None)


async def _complete(store: VastS3Store) -> object:
    upload = S3Upload(store, "nc", "nc", "id", lossy=False, etags={1: "c" * 32})
    return await upload.complete(expected_etag=None, md5_hex="")


@pytest.mark.parametrize("write", [_put, _complete])
@pytest.mark.parametrize(("there", "below"), [(False, True), (True, True), (False, False)])
async def test_a_write_refused_for_a_folder_is_a_clash(
    write: Callable[[VastS3Store], Awaitable[object]], *, there: bool, below: bool
) -> None:
    """The server says that the condition failed and shows no object: looked at again, it would be tried for ever."""
    async with served(Side.VAST, _server(there=there, below=below)) as (store, _):
        assert isinstance(store, VastS3Store)
        store.capabilities = replace(store.capabilities, nested_names=False)
        with pytest.raises(Reobserve if there or not below else Park) as raised:
            await write(store)
        assert raised.value.reason == ("precondition" if there or not below else "name_clash")


async def test_nothing_is_written_over_a_folder_without_a_condition() -> None:
    """rclone's server fails then, and what is below is in no look and no list for minutes: it would count as deleted."""
    async with served(Side.VAST, _server(there=False, below=True)) as (store, asked):
        store.capabilities = replace(store.capabilities, nested_names=False, conditional_put=False)
        with pytest.raises(Park) as raised:
            await store.put("nc", b"1", Metadata(), stamp=None, expected_etag=None)
        assert raised.value.reason == "name_clash"
        assert not [request for request in asked if request.startswith("PUT")]


async def test_a_server_that_holds_both_is_not_asked_for_folders() -> None:
    """There a failed precondition is just that, and costs no further request."""
    async with served(Side.VAST, _server(there=False, below=True)) as (store, asked):
        with pytest.raises(Reobserve):
            await store.put("nc", b"1", Metadata(), stamp=None, expected_etag=None)
        assert asked == ["PUT /b/nc"]


@pytest.mark.parametrize(
    ("refused", "apart"),
    [(None, False), ((404, "NoSuchKey"), True), ((500, "InternalError"), True)],
    ids=["rclone, s3s-fs", "most", "over files"],
)
async def test_a_server_that_drops_a_slash_at_the_end_is_found_out(refused: tuple[int, str] | None, *, apart: bool) -> None:
    """A folder's mark ``a/`` would be the object ``a``, and come back to the other side as one."""

    def answers(request: web.Request) -> web.Response:
        if request.method == "POST":
            told = "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>"
            return web.Response(text=told) if "uploads" in request.query else refusal(412, "PreconditionFailed")
        if request.method == "PUT" and "uploadId" in request.query:
            return web.Response(headers={"ETag": '"c4ca4238a0b923820dcc509a6f75849b"'})
        if request.method == "PUT":
            return refusal(412, "PreconditionFailed")
        if request.path.endswith("/"):
            return refusal(*refused) if refused else web.Response(headers=EMPTY)
        return web.Response(status=204)

    async with served(Side.VAST, answers) as (store, _):
        assert (await store.probe_more("k", store.capabilities)).trailing_slash is apart
