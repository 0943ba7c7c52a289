"""Files written at the Data Lake endpoint of a hierarchical namespace, over which the Blob endpoint takes no blocks."""

from __future__ import annotations

import hashlib

from aiohttp import web

from federation.metadata import key_digest
from federation.model import Metadata, OriginStamp, Side, Stamp
from tests.unit.store_server import EMPTY, refusal, served

STAMP = OriginStamp(Side.VAST, "v1", Stamp(1), None, key_digest("k"))


def data_lake_file(request: web.Request) -> web.Response:
    """Put Blob replaces it, and so does a copy (Azure's known issues of Data Lake Storage)."""
    if request.query.get("comp") in ("block", "blocklist") and request.path == "/a/c/k":
        return refusal(409, "BlobOperationNotSupported", Side.BLOB)
    if request.method == "HEAD":
        return web.Response(headers=EMPTY)
    headers = {"ETag": '"0x2"'} | ({"x-ms-copy-status": "success"} if "x-ms-copy-source" in request.headers else {})
    return web.Response(status=201, headers=headers)


async def test_a_large_version_takes_the_place_of_one() -> None:
    """As that of a page or append blob: staged under a name of our own, and copied over it."""
    async with served(Side.BLOB, data_lake_file) as (store, asked):
        upload = await store.begin_upload("k", Metadata(), stamp=STAMP, size_bytes=3)
        await upload.put_part(1, b"new")
        result = await upload.complete(expected_etag="0x1", md5_hex=hashlib.md5(b"new", usedforsecurity=False).hexdigest())
        staged = f"/a/c/.federation/staging/{upload.upload_id}"
    assert result.etag == "0x2"
    assert asked == [
        "PUT /a/c/k?comp",
        f"PUT {staged}?comp",
        f"PUT {staged}?comp",
        "PUT /a/c/k",
        "PUT /a/c/k",
        f"HEAD {staged}",
        f"DELETE {staged}",
    ]
