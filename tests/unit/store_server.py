"""A service in a few lines, for what no server at hand answers: one function is asked for every request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

from federation.model import Side
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.vast_s3 import VastS3Store

Store = AzureBlobStore | VastS3Store
Answers = Callable[[web.Request], web.Response]
MODIFIED = {"ETag": '"0x1"', "Last-Modified": "Fri, 21 Nov 2025 10:00:00 GMT"}
"""What describes a version, besides its length."""
ABSURD_DATES = [
    "Sun, 22 Nov 2026 08:00:00 +99999999999999999999",
    "Sun, 22 Nov 2026 08:00:00 +9999",
    "Sun, 22 Nov 99999999999999999999 08:00:00 GMT",
]
"""That no calendar, or none of ours, has."""
EMPTY = MODIFIED | {"Content-Length": "0"}
_TELLING = {"comp", "restype", "tagging", "uploads", "uploadId", "list-type"}
"""Names in a query that tell one operation from another."""


def refusal(status: int, code: str = "", side: Side = Side.VAST) -> web.Response:
    """As the service words it: S3 in the body, Azure in a header too; no code: as something between words it."""
    text = f"<Error><Code>{code}</Code></Error>" if code else "<html>no such page</html>"
    return web.Response(status=status, text=text, headers={"x-ms-error-code": code} if code and side is Side.BLOB else {})


@asynccontextmanager
async def served(side: Side, answers: Answers, *, map_tags: bool = False) -> AsyncIterator[tuple[Store, list[str]]]:
    """A store of *side* whose service is *answers*, and the requests so far as ``METHOD path?name&name``."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        query = "&".join(name for name in request.query if name in _TELLING)
        asked.append(f"{request.method} {request.path}{'?' if query else ''}{query}")
        return answers(request)

    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        store = _store(side, str(server.make_url("")), map_tags=map_tags)
        try:
            yield store, asked
        finally:
            await store.close()


def _store(side: Side, endpoint: str, *, map_tags: bool) -> Store:
    if side is Side.BLOB:
        told = f"BlobEndpoint={endpoint}/a;AccountName=a;AccountKey=a2V5"
        return AzureBlobStore(container="c", connection_string=told, map_tags=map_tags)
    return VastS3Store(endpoint=endpoint, bucket="b", access_key="key", secret_key="secret", map_tags=map_tags)
