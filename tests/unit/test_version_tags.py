"""The tags of an old version, which go back with it when a person takes the loser of a conflict."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.model import Side
from tests.unit.store_server import EMPTY, served

DOCUMENT = "<Tags><TagSet><Tag><Key>class</Key><Value>{}</Value></Tag></TagSet></Tags>"
PARAMETERS = {Side.BLOB: "versionid", Side.VAST: "versionId"}
IDS = {Side.BLOB: "x-ms-version-id", Side.VAST: "x-amz-version-id"}


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("map_tags", [True, False])
async def test_an_old_version_has_its_own_tags(side: Side, map_tags: bool) -> None:
    """Not those of the current one, nor none: what is written back without them would erase them on both sides."""

    def answers(request: web.Request) -> web.Response:
        version = request.query.get(PARAMETERS[side], "now")
        if "tagging" in request.query or request.query.get("comp") == "tags":
            return web.Response(text=DOCUMENT.format(version))
        return web.Response(headers=EMPTY | {IDS[side]: version, "x-ms-tag-count": "1", "x-amz-tagging-count": "1"})

    async with served(side, answers, map_tags=map_tags) as (store, _):
        reader = await store.open_version("k", "old")
        assert reader.present.metadata.tags == ((("class", "old"),) if map_tags else None)
        await reader.close()
        assert (await store.head("k")).metadata.tags == ((("class", "now"),) if map_tags else None)
