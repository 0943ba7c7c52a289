"""A listing goes on for as long as its markers lead anywhere, and no longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from federation.errors import RetryLater
from federation.model import Side
from federation.stores.base import HttpStore, Request
from federation.stores.lane import Answer
from tests.unit.test_conditional_reads import store_of

Book = Mapping[str, tuple[Sequence[str], str]]
"""By the marker sent (empty: none): the names of the page, and the marker that goes on."""


def _azure(names: Sequence[str], marker: str) -> str:
    of_blob = "<Last-Modified>Sat, 21 Nov 2026 05:10:01 GMT</Last-Modified><Etag>0x8D1</Etag><Content-Length>3</Content-Length>"
    blobs = "".join(f"<Blob><Name>{name}</Name><Properties>{of_blob}</Properties></Blob>" for name in names)
    return f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"


def _s3(names: Sequence[str], marker: str) -> str:
    of_object = "<LastModified>2026-11-21T05:10:01.000Z</LastModified><ETag>&quot;e-1&quot;</ETag><Size>3</Size>"
    contents = "".join(f"<Contents><Key>{name}</Key>{of_object}</Contents>" for name in names)
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{marker}</NextContinuationToken>"
    return f"<ListBucketResult>{more if marker else '<IsTruncated>false</IsTruncated>'}{contents}</ListBucketResult>"


def _served(side: Side, book: Book) -> tuple[HttpStore, list[str]]:
    """A store whose server answers by *book*, and the markers it was sent; it gives up after many."""
    store, sent = store_of(side, "http://127.0.0.1:9"), []
    parameter = "marker" if side is Side.BLOB else "continuation-token"

    async def call(request: Request) -> Answer:
        marker = (request.query or {}).get(parameter, "")
        sent.append(marker)
        assert len(sent) < 50, "asked for ever"
        body = (_azure if side is Side.BLOB else _s3)(*book[marker])
        return Answer(200, {}, body.encode())

    store.call = call  # type: ignore[method-assign]
    return store, sent


ENDLESS: dict[str, Book] = {
    "the same, empty": {"": ([], "A"), "A": ([], "A")},
    "the same page": {"": (["a"], "A"), "A": (["b"], "A")},
    "the first page": {"": (["a"], "A"), "A": (["a"], "A")},
    "in turn, empty": {"": (["a"], "A"), "A": ([], "B"), "B": ([], "A")},
    "in turn, with names": {"": (["a"], "A"), "A": (["b"], "B"), "B": (["c"], "C"), "C": (["d"], "A")},
}


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("book", ENDLESS.values(), ids=ENDLESS)
async def test_a_server_that_goes_round_in_circles_is_not_followed(side: Side, book: Book) -> None:
    """It counts as a listing that failed: nothing is concluded from it (rule 3)."""
    store, _ = _served(side, book)
    with pytest.raises(RetryLater) as refused:
        _ = [page async for page in store._pages("", "")]
    assert (refused.value.reason, refused.value.side) == ("bad_listing", side)
    await store.close()


@pytest.mark.parametrize("side", list(Side))
async def test_empty_pages_that_lead_on_are_followed(side: Side) -> None:
    """However many come in a row, and wherever the names stand by our order."""
    book = {"": (["b"], "0")} | {str(at): ([], str(at + 1)) for at in range(30)} | {"30": (["a"], "31"), "31": (["c"], "")}
    store, sent = _served(side, book)
    names = [entry.key async for page in store._pages("", "") for entry in page.entries]
    assert (names, len(sent)) == (["b", "a", "c"], 33)
    await store.close()
