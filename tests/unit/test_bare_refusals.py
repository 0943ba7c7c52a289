"""A HEAD that is refused without a word of why: what a GET then says is what it means, and only that may mean absent (rule 3)."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.errors import FederationError, Halt, NotPresent, Park, RetryLater
from federation.model import Metadata, Side
from tests.unit.store_server import MODIFIED, refusal, served

ABSENT = {Side.BLOB: "BlobNotFound", Side.VAST: "NoSuchKey"}
GONE = {Side.BLOB: "ContainerNotFound", Side.VAST: "NoSuchBucket"}


async def said_of(side: Side, got: web.Response, status: int = 404) -> tuple[FederationError, list[str]]:
    """What a look raises where HEAD is answered *status* alone, and GET *got*; lists work. With the requests it took."""

    def answers(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(status=status)
        # A copy: an answer can be sent but once.
        again = web.Response(body=got.body, headers=got.headers, status=got.status)
        return again if request.path.endswith("/k") else web.Response(text="<a list>")

    async with served(side, answers) as (store, asked):
        with pytest.raises(FederationError) as error:
            await store.head("k")
    return error.value, [one.split()[0] for one in asked]


@pytest.mark.parametrize("side", Side)
async def test_absence_is_what_the_service_itself_says(side: Side) -> None:
    """One more request tells: the object is absent, or the container is."""
    error, asked = await said_of(side, refusal(404, ABSENT[side], side))
    assert isinstance(error, NotPresent)
    assert asked == ["HEAD", "GET"]
    error, _ = await said_of(side, refusal(404, GONE[side], side))
    assert isinstance(error, Halt)
    assert error.reason == "container_missing"
    assert str(error).count("http://") == 1, "the place is named once"


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("status", [404, 200, 206, 416])
async def test_a_gateway_that_answers_404_is_no_absence(side: Side, status: int) -> None:
    """Deletes are confirmed by such a look: the good object of the other side would go for a proxy's word, though lists work."""
    said = web.Response(body=b"b", headers=MODIFIED, status=status) if status < 300 else refusal(status)
    error, asked = await said_of(side, said)
    assert isinstance(error, RetryLater)
    assert error.reason == "bad_answer"
    assert asked == ["HEAD", "GET"] * (1 if status == 404 else 2)


@pytest.mark.parametrize("side", Side)
async def test_what_comes_between_the_two_requests_is_there(side: Side) -> None:
    """A write between the HEAD and the GET that asks why is no fault of the side: one more look sees it."""
    heads = iter([404])

    def answers(request: web.Request) -> web.Response:
        if request.method == "HEAD" and next(heads, 200) == 404:
            return web.Response(status=404)
        return web.Response(body=b"b", headers=MODIFIED)

    async with served(side, answers) as (store, asked):
        assert (await store.head("k")).version.size_bytes == 1
    assert [one.split()[0] for one in asked] == ["HEAD", "GET", "HEAD"]


@pytest.mark.parametrize(
    ("status", "code", "kind", "reason"),
    [
        (307, "TemporaryRedirect", RetryLater, "server_error"),
        (301, "PermanentRedirect", Halt, "container_missing"),
        (409, "OperationAborted", RetryLater, "server_error"),
        (405, "MethodNotAllowed", Park, "not_supported"),
        (302, "", RetryLater, "bad_answer"),
    ],
)
async def test_a_bare_refusal_is_what_a_get_says_it_is(status: int, code: str, kind: type[Exception], reason: str) -> None:
    """A redirect of a failover or a wrong endpoint does not park what is waiting key by key."""
    error, asked = await said_of(Side.VAST, refusal(status, code), status)
    assert (type(error), error.reason) == (kind, reason)
    assert asked == ["HEAD", "GET"]


@pytest.mark.parametrize(("code", "reason"), [("AccessDenied", "access_denied"), ("SlowDown", "throttled")])
async def test_a_refusal_inside_a_success_is_as_by_itself(code: str, reason: str) -> None:
    """S3 may begin to answer a commit before it is made; the pair goes on where one object alone is refused."""

    def answers(request: web.Request) -> web.Response:
        if request.method == "POST" and "uploads" in request.query:
            return web.Response(text="<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
        if request.method == "GET":
            return web.Response(text="<ListBucketResult/>") if request.path == "/b" else refusal(404, "NoSuchKey")
        if request.method == "POST":
            return web.Response(text=f"   <Error><Code>{code}</Code></Error>")
        return web.Response(status=404) if request.method == "HEAD" else web.Response(headers={"ETag": '"e"'})

    async with served(Side.VAST, answers) as (store, _):
        upload = await store.begin_upload("k", Metadata(), stamp=None, size_bytes=1)
        await upload.put_part(1, b"x")
        with pytest.raises(FederationError) as error:
            await upload.complete(expected_etag=None, md5_hex="")
    assert error.value.reason == reason


@pytest.mark.parametrize("side", Side)
async def test_an_identity_of_the_pair_s_prefix_alone_is_enough(side: Side) -> None:
    """Policies and SAS may allow to list below it only: to ask for the whole container would be refused, and halt the pair."""
    denied = "AccessDenied" if side is Side.VAST else "AuthorizationPermissionMismatch"

    def answers(request: web.Request) -> web.Response:
        return web.Response() if request.query.get("prefix", "").startswith("team/") else refusal(403, denied, side)

    async with served(side, answers) as (store, _):
        store._prefix = "team/"
        await store.check()
        with pytest.raises(Park) as error:
            await store.head("k")
        assert error.value.reason == "access_denied"
