"""Blobs in an encryption scope of their own, whose metadata is encrypted in it too."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.errors import Park
from federation.model import Metadata, Side
from tests.unit.store_server import EMPTY, refusal, served

SCOPE = "x-ms-encryption-scope"
NEW = Metadata(user=(("owner", "bob"),))


@pytest.mark.parametrize("scope", ["tenant-a", ""])
async def test_new_metadata_names_the_scope_of_its_blob(scope: str) -> None:
    """The service refuses it without; a key that the writer sends along has no name to send."""
    sent: list[str] = []

    def answers(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(headers=EMPTY | ({SCOPE: scope} if scope else {}))
        sent.append(request.headers.get(SCOPE, ""))
        if sent[-1] != "tenant-a":
            return refusal(409, "BlobUsesCustomerSpecifiedEncryption", Side.BLOB)
        return web.Response(headers={"ETag": '"0x2"'})

    async with served(Side.BLOB, answers) as (store, _):
        replacing = store.replace_metadata("k", NEW, stamp=None, expected_etag="0x1")
        if scope:
            assert (await replacing).etag == "0x2"
            assert sent == ["", scope]
            return
        with pytest.raises(Park) as error:
            await replacing
    assert (error.value.reason, sent) == ("customer_key", [""])


async def test_a_scope_is_not_told_without_need() -> None:
    """A container may deny that requests name one, though all its blobs are in its own."""
    sent: list[str | None] = []

    def answers(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(headers=EMPTY | {SCOPE: "default"})
        sent.append(request.headers.get(SCOPE))
        return web.Response(headers={"ETag": '"0x2"'})

    async with served(Side.BLOB, answers) as (store, _):
        await store.replace_metadata("k", NEW, stamp=None, expected_etag="0x1")
    assert sent == [None]
