"""A blob that a user has the service copy to, which is there, and empty, before the copy is."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.errors import Park, Reobserve, RetryLater
from federation.metadata import Stored
from federation.model import Metadata, Side
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.azure_recreate import staging_key, take_over
from tests.unit.store_server import EMPTY, MODIFIED, served


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [("pending", RetryLater, "copy_pending"), ("failed", Park, "copy_failed"), ("aborted", Park, "copy_failed")],
)
async def test_what_a_copy_has_not_filled_is_no_version(status: str, kind: type[Exception], reason: str) -> None:
    """Else its emptiness would be copied over the good object of the other side; and the side itself is well."""
    async with served(Side.BLOB, lambda _: web.Response(headers=EMPTY | {"x-ms-copy-status": status})) as (store, _):
        looks = (
            lambda: store.head("a"),
            lambda: store.open("a"),
            lambda: store.open("a", if_match="0x1"),
            lambda: store.replace_metadata("a", Metadata(), stamp=None, expected_etag="0x1"),
        )
        for look in looks:
            with pytest.raises(kind) as error:
                await look()
            assert isinstance(error.value, RetryLater | Park)
            assert (error.value.reason, error.value.key, error.value.side) == (reason, "a", Side.BLOB)
            assert getattr(error.value, "answered", True)


@pytest.mark.parametrize("status", ["success", "failed", "aborted"])
async def test_what_was_copied_or_written_since_is_one(status: str) -> None:
    """An append does not clear what is told of an earlier copy."""
    told = MODIFIED | {"Content-Length": "3", "x-ms-copy-status": status}
    async with served(Side.BLOB, lambda _: web.Response(headers=told)) as (store, _):
        assert (await store.head("a")).version.size_bytes == 3


def failing(request: web.Request) -> web.Response:
    """Every copy is accepted, and then fails."""
    if request.method == "HEAD":
        return web.Response(headers=EMPTY | {"ETag": '"0x3"', "x-ms-copy-status": "failed"})
    if "x-ms-copy-source" in request.headers:
        return web.Response(status=202, headers={"ETag": '"0x2"', "x-ms-copy-status": "pending"})
    if request.method == "PUT":
        held.append(request.headers.get("If-Match", ""))
    return web.Response(status=201, headers={"ETag": '"0x1"'})


held: list[str] = []
"""Conditions of the writes that were no copies."""


async def test_a_failed_copy_of_our_own_deletes_nothing_of_a_user_s() -> None:
    """Of a large version in place of a page blob: the name is held again as it was before the copy, as after a crash."""
    held.clear()
    async with served(Side.BLOB, failing) as (store, asked):
        assert isinstance(store, AzureBlobStore)
        with pytest.raises(RetryLater) as error:
            await take_over(store, "k", staging_key("1"), Stored({}, {}, lossy=False), {"If-Match": '"0x0"'})
    assert (error.value.reason, error.value.left_etag) == ("copy_failed", "")
    assert held == ['"0x0"', '"0x3"']
    assert not [one for one in asked if one.startswith("DELETE")]


@pytest.mark.parametrize("since", [{}, {"x-ms-copy-id": "another", "x-ms-copy-status": "success"}], ids=["write", "copy"])
async def test_what_a_user_wrote_after_our_copy_is_not_taken_for_it(since: dict[str, str]) -> None:
    """As our own it would be agreed on, and reach the other side never (rule 7)."""

    def overtaken(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(headers=EMPTY | {"ETag": '"0x9"'} | since)
        if "x-ms-copy-source" in request.headers:
            told = {"ETag": '"0x2"', "x-ms-copy-status": "pending", "x-ms-copy-id": "ours"}
            return web.Response(status=202, headers=told)
        return web.Response(status=201, headers={"ETag": '"0x1"'})

    async with served(Side.BLOB, overtaken) as (store, asked):
        assert isinstance(store, AzureBlobStore)
        with pytest.raises(Reobserve):
            await take_over(store, "k", staging_key("1"), Stored({}, {}, lossy=False), {"If-Match": '"0x0"'})
    assert not [one for one in asked if one.startswith("DELETE")]


async def test_a_failed_copy_of_a_loser_leaves_nothing() -> None:
    """Empty as it is, it would pass for the version that was to be kept (rule 1)."""
    async with served(Side.BLOB, failing) as (store, asked):
        with pytest.raises(RetryLater) as error:
            await store.copy("k", "kept", source_etag="0x1")
    assert (error.value.reason, error.value.left_etag) == ("copy_failed", "")
    assert asked[-1] == "DELETE /a/c/kept"
