"""A blob that a user has the service copy to, which is there, and empty, before the copy is."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.errors import Park, RetryLater
from federation.model import Metadata, Side
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
