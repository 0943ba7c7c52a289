"""A SAS that allows to create blobs and not to write over them: 403 UnauthorizedBlobOverwrite."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.errors import Park, Reobserve
from federation.model import Metadata, Side
from federation.stores.probe import Probe
from tests.unit.store_server import refusal, served


def creates_only(request: web.Request) -> web.Response:
    """Everything is there; lists work."""
    return web.Response() if request.method == "GET" else refusal(403, "UnauthorizedBlobOverwrite", Side.BLOB)


async def test_a_version_that_may_not_be_replaced_is_a_right_that_lacks() -> None:
    """Not an object that moves, which would come back by itself; one that was to be made and is there has moved."""
    async with served(Side.BLOB, creates_only) as (store, _):
        with pytest.raises(Park) as parked:
            await store.put("k", b"new", Metadata(), stamp=None, expected_etag="0x1")
        assert (parked.value.reason, parked.value.key) == ("access_denied", "k")
        with pytest.raises(Reobserve):
            await store.put("k", b"new", Metadata(), stamp=None, expected_etag=None)


@pytest.mark.parametrize("condition", [{"If-None-Match": "*"}, {"If-Match": '"0x0"'}])
async def test_the_probe_takes_it_for_no_condition_that_held(condition: dict[str, str]) -> None:
    """The service looked at rights, and perhaps never at the condition."""
    async with served(Side.BLOB, creates_only) as (store, _):
        assert not await Probe.refuses(store.put_probe("k", condition))
