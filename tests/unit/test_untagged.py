"""S3 servers that answer NoSuchTagSet where an object has no tags."""

from __future__ import annotations

from aiohttp import web

from federation.model import Side
from tests.unit.store_server import EMPTY, refusal, served


async def test_an_object_without_tags_is_one_without_tags() -> None:
    """It would be parked, and with it all that have none."""

    def answers(request: web.Request) -> web.Response:
        return refusal(404, "NoSuchTagSet") if "tagging" in request.query else web.Response(headers=EMPTY)

    async with served(Side.VAST, answers, map_tags=True) as (store, asked):
        assert (await store.head("k")).metadata.tags == ()
        assert asked == ["HEAD /b/k", "GET /b/k?tagging"]
