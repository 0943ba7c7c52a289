"""A directory of a hierarchical namespace, which HEAD and GET answer for, and lists leave out."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.errors import NotPresent, Reobserve
from federation.model import Metadata, Side
from tests.unit.store_server import EMPTY, refusal, served

FOLDER = EMPTY | {"x-ms-meta-hdi_isfolder": "true"}


def directory(request: web.Request) -> web.Response:
    """There is nothing but the directory: whoever expects another version is refused."""
    if request.method in ("PUT", "DELETE"):
        return refusal(412, "ConditionNotMet", Side.BLOB)
    return web.Response(headers=FOLDER | {"x-ms-resource-type": "directory"})


async def test_a_directory_is_no_object() -> None:
    """As in lists: the blob of that name is gone, and on VAST it must go before what the directory holds can be written."""
    async with served(Side.BLOB, directory) as (store, _):
        for call in (store.head("data"), store.open("data"), store.open("data", if_match="0x0")):
            with pytest.raises(NotPresent) as error:
                await call
            assert (error.value.key, error.value.side) == ("data", Side.BLOB)


async def test_a_directory_is_neither_deleted_nor_written_over() -> None:
    """The blob that was to be deleted is gone already; a write that expects it finds another state than the one decided from."""
    async with served(Side.BLOB, directory) as (store, asked):
        await store.delete("data", expected_etag="0x0")
        assert [one.split()[0] for one in asked] == ["DELETE", "HEAD"]
        with pytest.raises(Reobserve):
            await store.put("data", b"", Metadata(), stamp=None, expected_etag="0x0")


async def test_a_folder_by_its_metadata_alone_is_an_object() -> None:
    """As tools leave them on flat accounts, whose lists name them as any other blob."""
    async with served(Side.BLOB, lambda _: web.Response(headers=FOLDER)) as (store, _):
        assert (await store.head("data")).metadata.user == (("hdi-isfolder", "true"),)
