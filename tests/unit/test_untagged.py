"""S3 servers that answer a question for tags otherwise than S3 does."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.errors import RetryLater
from federation.model import Metadata, Side
from tests.unit.store_server import EMPTY, refusal, served


async def test_an_object_without_tags_is_one_without_tags() -> None:
    """It would be parked, and with it all that have none."""

    def answers(request: web.Request) -> web.Response:
        return refusal(404, "NoSuchTagSet") if "tagging" in request.query else web.Response(headers=EMPTY)

    async with served(Side.VAST, answers, map_tags=True) as (store, asked):
        assert (await store.head("k")).metadata.tags == ()
        assert asked == ["HEAD /b/k", "GET /b/k?tagging"]


async def test_content_is_not_taken_for_tags() -> None:
    """rclone's server knows no ``?tagging``: it answers with the object, and tags that are written replace or delete it."""
    etag = "c" * 32

    def answers(request: web.Request) -> web.Response:
        assert request.method in {"HEAD", "GET"}, "tags were written"
        told = EMPTY | {"ETag": f'"{etag}"'}
        return web.Response(headers=told) if request.method == "HEAD" else web.Response(body=b"<svg><g/></svg>")

    async with served(Side.VAST, answers, map_tags=True) as (store, _):
        for tags in ((), (("a", "1"),)):
            with pytest.raises(RetryLater, match="holds no tags"):
                await store.replace_metadata("k", Metadata(tags=tags), stamp=None, expected_etag=etag)
