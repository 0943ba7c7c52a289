"""Times that no calendar has, in answers: none of them is a bug of ours, and none says that something is absent."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.errors import RetryLater
from federation.model import Side
from federation.stores.pages import parse_azure_page, parse_s3_page
from tests.unit.store_server import ABSURD_DATES, EMPTY, served

ISO = ["2026-11-22T08:00:00+99999999999999999999", "99999999999999999999-11-22T08:00:00Z", "0001-01-01T00:00:00"]


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("told", ABSURD_DATES)
async def test_a_date_that_cannot_be_read_costs_no_call(side: Side, told: str) -> None:
    """``Date`` tells about the clock only: without it the clock is not measured, and the object is there."""
    async with served(side, lambda _: web.Response(headers=EMPTY | {"Date": told})) as (store, _):
        assert (await store.head("k")).version.size_bytes == 0


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("told", ABSURD_DATES)
async def test_a_version_without_a_readable_time_is_no_answer(side: Side, told: str) -> None:
    """Asked for again, neither absent nor parked as a bug."""
    async with served(side, lambda _: web.Response(headers=EMPTY | {"Last-Modified": told})) as (store, _):
        for asking in (store.head, store.open):
            with pytest.raises(RetryLater) as odd:
                await asking("k")
            assert odd.value.reason == "bad_answer"


@pytest.mark.parametrize("space", ["", " "], ids=["as text", "as a tree"])
@pytest.mark.parametrize("told", ABSURD_DATES)
def test_a_list_page_of_blob_with_such_a_time_is_broken(told: str, space: str) -> None:
    """However the page is written."""
    body = (
        f"<EnumerationResults{space}><Blobs><Blob><Name>k</Name><Properties><Last-Modified>{told}</Last-Modified><Etag>0x1</Etag>"
        "<Content-Length>1</Content-Length></Properties></Blob></Blobs><NextMarker /></EnumerationResults>"
    )
    with pytest.raises(RetryLater):
        parse_azure_page(body.encode())


@pytest.mark.parametrize("told", ISO)
def test_a_list_page_of_vast_with_such_a_time_is_broken(told: str) -> None:
    """As above."""
    body = (
        "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key>"
        f"<LastModified>{told}</LastModified><ETag>&quot;0&quot;</ETag><Size>1</Size></Contents></ListBucketResult>"
    )
    with pytest.raises(RetryLater):
        parse_s3_page(body.encode())
