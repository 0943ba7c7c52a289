"""What the probe makes of servers that differ as real ones were seen to (docs/stores.md, S3 servers tried)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from unittest.mock import AsyncMock
from urllib.parse import quote

import pytest
from multidict import CIMultiDict

from federation.capabilities import Capabilities
from federation.errors import FederationError, NotPresent, Park, Reobserve, RetryLater
from federation.model import Metadata, Present, Side, Stamp, Tags, Version
from federation.stores.lane import Answer
from federation.stores.vast_s3 import VastS3Store

_ETAG = hashlib.md5(b"1", usedforsecurity=False).hexdigest()


class Server(VastS3Store):
    """One that ignores conditions, whose objects are names only.

    *fault*: what a name below another one meets; None: it is taken, and *hidden* says whether lists leave it out.
    """

    def __init__(
        self,
        *,
        fault: FederationError | None = None,
        hidden: bool = False,
        gone: bool = False,
        cleans: bool = False,
        marks: bool = True,
    ) -> None:
        super().__init__(endpoint="http://localhost", bucket="b", access_key="a", secret_key="s")
        self.held: set[str] = set()
        self.tags: dict[str, Tags] = {}
        self._fault_below, self._hidden, self._gone = fault, hidden, gone
        self._cleans, self._marks = cleans, marks

    async def put_probe(self, key: str, headers: Mapping[str, str]) -> Answer:
        """Taken, whatever the condition."""
        del headers
        if self._fault_below is not None and self._below(key):
            raise self._fault_below
        self.held.add(key)
        return Answer(200, CIMultiDict({"ETag": f'"{_ETAG}"'}), b"")

    async def delete_probe(self, key: str, headers: Mapping[str, str], query: Mapping[str, str] | None) -> Answer:
        """A condition that does not hold is answered as if nothing were there, where *gone*."""
        del query
        if isinstance(self._fault_below, RetryLater) and self._below(key):
            raise self._fault_below
        if key not in self.held or (headers and self._gone):
            raise NotPresent("404 NoSuchKey", reason="not_present", key=key, side=Side.VAST)
        self.held.discard(key)
        return Answer(204, CIMultiDict(), b"")

    async def head(self, key: str) -> Present:
        """As in the port."""
        if (key.removeprefix("/") if self._cleans else key) not in self.held:
            raise NotPresent("404", reason="not_present", key=key, side=Side.VAST)
        kept = self._marks or not key.endswith("/")
        return Present(Version(_ETAG, int(kept), Stamp(0)), Metadata(user=(("probe", "1"),) if kept else ()), None)

    async def probe_more(self, key: str, found: Capabilities) -> Capabilities:
        """Copies and parts are not what is asked here."""
        del key
        return found

    async def list_page(self, prefix: str, count: int) -> bytes:
        """In order, a name below another one left out where *hidden*."""
        del count
        seen = sorted(key for key in self.held if key.startswith(prefix) and not (self._hidden and self._below(key)))
        entry = "<Contents><Key>{}</Key><LastModified>2026-11-21T05:10:01Z</LastModified><ETag>{}</ETag><Size>1</Size></Contents>"
        entries = "".join(entry.format(quote(key), _ETAG) for key in seen)
        head = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
        return f"{head}{entries}</ListBucketResult>".encode()

    async def write_tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Kept, as is nothing else."""
        self.tags[key] = tuple(sorted(tags.items()))

    async def read_tags(self, key: str, version_id: str = "") -> Tags:
        """Refused where there are none."""
        del version_id
        if key not in self.tags:
            raise Park("404", reason="refused", key=key, side=Side.VAST)
        return self.tags[key]

    def _below(self, key: str) -> bool:
        return any(key.startswith(f"{other}/") for other in self.held)


class Current:
    """A reading of the one object there is. ``version_id``: what the server says of it."""

    def __init__(self, version_id: str | None, body: bytes = b"1") -> None:
        self.present = Present(Version(_ETAG, 1, Stamp(0), version_id=version_id), Metadata(), None)
        self._body = body

    async def read(self) -> bytes:
        """As in the port."""
        return self._body

    async def close(self) -> None:
        """As in the port."""


_NONE = replace(Capabilities(), conditional_put=False, conditional_delete=False, checksums=False)


async def test_a_server_that_honours_nothing_is_found_out_and_left_clean() -> None:
    """Each condition is tried and found not to hold; no probe object stays."""
    server = Server()
    assert await server.probe() == _NONE
    assert server.held == set()


async def test_tags_count_as_kept_where_an_object_without_any_can_be_asked_for_them() -> None:
    """Most objects have none: where that is refused with a code that nobody knows, mapped tags would park all of them."""
    server = Server()
    assert not (await server.probe()).tags
    server.read_tags = AsyncMock(side_effect=[(), (("probe", "1"),)])  # type: ignore[method-assign]
    assert (await server.probe()).tags


async def test_a_delete_refused_as_of_nothing_is_no_condition_that_was_honoured() -> None:
    """Adobe's S3Mock answers 404 there: no fault of the probe."""
    server = Server(gone=True)
    assert not (await server.probe()).conditional_delete
    assert server.held == set()


@pytest.mark.parametrize(
    "server",
    [
        Server(hidden=True),
        Server(fault=Park("400", reason="name_clash", side=Side.VAST)),
        Server(fault=Reobserve("409", reason="precondition", side=Side.VAST)),
        Server(fault=RetryLater("500", reason="server_error", side=Side.VAST)),
    ],
    ids=["left out of lists", "refused", "refused as a condition", "failed on"],
)
async def test_a_name_below_another_is_tried(server: Server) -> None:
    """MinIO hides ``a/b`` beside ``a``, a gateway over files refuses it, s3proxy over files fails."""
    assert await server.probe() == replace(_NONE, nested_names=False)
    assert server.held == set()


async def test_a_server_that_cleans_paths_is_found_out() -> None:
    """MinIO takes ``/a`` at the root of a bucket for ``a``: two keys would be one object."""
    assert await Server(cleans=True).probe() == replace(_NONE, leading_slash=False)


async def test_a_server_that_does_not_tell_case_is_found_out() -> None:
    """Of Blob's ``A`` and ``a`` it would hold one, and a delete of either would travel back as one of the other."""

    class Folding(Server):
        async def head(self, key: str) -> Present:
            return await super().head(key.lower())

    assert await Folding().probe() == replace(_NONE, case_sensitive=False)


async def test_a_server_that_keeps_no_more_than_the_name_of_a_folder_is_found_out() -> None:
    """SeaweedFS answers 200 and the content's ETag, and then has no content and no metadata of the user."""
    server = Server(marks=False)
    assert await server.probe() == replace(_NONE, marks=False)
    assert server.held == set()


async def test_a_server_that_takes_the_mark_of_a_folder_and_has_none_is_found_out() -> None:
    """The probe ends well: the side is of use for all other names."""

    class Dropping(Server):
        async def head(self, key: str) -> Present:
            if key.endswith("/"):
                raise NotPresent("404", reason="not_present", key=key, side=Side.VAST)
            return await super().head(key)

    assert await Dropping().probe() == replace(_NONE, marks=False)


@pytest.mark.parametrize(
    "fault",
    [
        RetryLater("500", reason="server_error", side=Side.VAST),
        RetryLater("404, and then 200", reason="bad_answer", side=Side.VAST),
        Park("403", reason="access_denied", side=Side.VAST),
        Park("400", reason="refused", side=Side.VAST),
        Reobserve("412", reason="precondition", side=Side.VAST),
    ],
    ids=str,
)
async def test_a_server_that_fails_on_the_mark_of_a_folder_it_took_is_found_out(fault: FederationError) -> None:
    """Looked at or removed, it may fail each time, as s3s-fs does: else no probe of that side would ever end."""

    class Failing(Server):
        async def head(self, key: str) -> Present:
            if key.endswith("/"):
                raise fault
            return await super().head(key)

        async def delete_probe(self, key: str, headers: Mapping[str, str], query: Mapping[str, str] | None) -> Answer:
            if key.endswith("/"):
                raise fault
            return await super().delete_probe(key, headers, query)

    server = Failing()
    server.clock = AsyncMock()
    assert await server.probe() == replace(_NONE, marks=False)


async def test_a_busy_server_has_not_said_no() -> None:
    """A throttle while names are tried ends the probe, and nothing is left."""
    server = Server(fault=RetryLater("503", reason="throttled", side=Side.VAST))
    with pytest.raises(RetryLater):
        await server.probe()
    assert server.held == set()


@pytest.mark.parametrize(("named", "kept"), [(None, False), ("v1", True)])
async def test_versions_count_as_kept_where_a_read_names_the_one_asked_for(
    monkeypatch: pytest.MonkeyPatch, named: str | None, *, kept: bool
) -> None:
    """Garage gives every write an id and answers a read of any id with the current object, which a policy may keep in place."""
    server = Server()
    put_probe = server.put_probe

    async def with_id(key: str, headers: Mapping[str, str]) -> Answer:
        answer = await put_probe(key, headers)
        return Answer(200, CIMultiDict({**answer.headers, "x-amz-version-id": "v1"}), b"")

    async def current(*_: object, **__: object) -> Current:
        return Current(named)

    monkeypatch.setattr(server, "put_probe", with_id)
    monkeypatch.setattr(server, "open_version", current)
    assert (await server.probe()).versioning is kept


@pytest.mark.parametrize("where", ["first", "listed"])
@pytest.mark.parametrize("damaged", [True, False])
async def test_a_damaged_write_does_not_make_etags_opaque(monkeypatch: pytest.MonkeyPatch, where: str, *, damaged: bool) -> None:
    """Its ETag is the hash of other content: the probe ends and is repeated, for what it finds is believed for long."""
    server, another = Server(), "c" * 32
    put_probe, list_page = server.put_probe, server.list_page

    async def put_otherwise(key: str, headers: Mapping[str, str]) -> Answer:
        answer = await put_probe(key, headers)
        return Answer(200, CIMultiDict({"ETag": f'"{another}"'}), b"") if where == "first" else answer

    async def list_otherwise(prefix: str, count: int) -> bytes:
        page = await list_page(prefix, count)
        return page.replace(_ETAG.encode(), another.encode(), 1) if where == "listed" else page

    async def read(*_: object, **__: object) -> Current:
        return Current(None, b"2" if damaged else b"1")

    monkeypatch.setattr(server, "put_probe", put_otherwise)
    monkeypatch.setattr(server, "list_page", list_otherwise)
    monkeypatch.setattr(server, "open", read)
    if damaged:
        with pytest.raises(RetryLater, match="not what was written"):
            await server.probe()
    else:
        assert not (await server.probe()).etag_is_md5
    assert server.held == set()
