"""A listing that starts at a name, on a service that does not know how to."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.errors import Park
from federation.model import Side
from federation.stores.azure_blob import START_FROM_VERSION
from tests.unit.store_server import refusal, served

PAGE = (
    "<EnumerationResults><Blobs><Blob><Name>a</Name><Properties><Last-Modified>Sat, 21 Nov 2026 05:10:01 GMT</Last-Modified>"
    "<Etag>0x8D1</Etag><Content-Length>3</Content-Length></Properties></Blob></Blobs><NextMarker /></EnumerationResults>"
)


async def test_a_cloud_that_cannot_start_at_a_name_lists_from_the_beginning() -> None:
    """National clouds learn a version of the interface later; else each scan that goes on from a name would fail there."""

    def answers(request: web.Request) -> web.Response:
        if request.headers["x-ms-version"] == START_FROM_VERSION:
            return refusal(400, "InvalidHeaderValue", Side.BLOB)
        assert "startFrom" not in request.query
        return web.Response(text=PAGE)

    async with served(Side.BLOB, answers) as (store, asked):
        store.ordered = True
        assert [entry.key async for entry in store.list(start_after="0")] == ["a"]
        assert [entry.key async for entry in store.list(start_after="a")] == []
        assert len(asked) == 4


async def test_a_listing_that_is_refused_anyway_says_so() -> None:
    """A refusal of something else comes again, and is raised."""
    async with served(Side.BLOB, lambda _: refusal(400, "InvalidQueryParameterValue", Side.BLOB)) as (store, asked):
        store.ordered = True
        with pytest.raises(Park):
            _ = [entry async for entry in store.list(start_after="a")]
        assert len(asked) == 2
