"""An S3 server whose ETags look like MD5s and are none, as under a KMS key: in front of one whose ETags are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from itertools import count
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from federation.stores.wire import content_md5

KMS = {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:::key/1"}
DSSE = {"x-amz-server-side-encryption": "aws:kms:dsse"}
CUSTOMER_KEY = {"x-amz-server-side-encryption-customer-algorithm": "AES256"}
_PASSED_ON = ("content-", "x-amz-", "last-modified", "date", "accept-ranges", "etag")
_CONDITIONS = ("If-Match", "If-None-Match", "x-amz-copy-source-if-match")
_ETAG = re.compile(r"(<ETag>)(?:&quot;|\")?([0-9a-f]{32}(?:-\d+)?)(?:&quot;|\")?(</ETag>)")
_ENTRY = re.compile(r"<Key>([^<]*)</Key>.*?</ETag>", re.DOTALL)


class OpaqueETags:
    """Answers in the place of *upstream*. Every write gives its object an ETag of its own; *headers* say why, if anything does.

    Content that does not fit its Content-MD5 is refused, as AWS does.
    """

    def __init__(self, upstream: str, headers: dict[str, str]) -> None:
        self._upstream = upstream
        self._headers = headers
        self._serial = count(1)
        self._told: dict[tuple[str, str], str] = {}
        """The ETag told, by path and the server's own."""
        self._meant: dict[str, str] = {}
        self._session = aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=("Content-Type", "User-Agent"))
        self.damages_writes = False
        """Contents of objects and parts arrive damaged."""

    def _new(self, path: str, etag: str) -> str:
        _, dash, parts = etag.partition("-")
        told = f"{next(self._serial):032x}{dash}{parts}"
        self._told[path, etag], self._meant[told] = told, etag
        return told

    def _known(self, path: str, etag: str) -> str:
        return self._told.get((path, etag)) or self._new(path, etag)

    def _is_meant(self, path: str, told: str) -> str:
        """The server's own for one that was told; none that it has for one that is no longer *path*'s."""
        meant = self._meant.get(told, told)
        return meant if self._told.get((path, meant)) == told else "f" * 32

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass one request on, with the ETags that the server knows, and its answer back."""
        raw_path, query = str(request.rel_url), request.rel_url.raw_query_string
        path = unquote(raw_path.partition("?")[0])
        headers = CIMultiDict((name, value) for name, value in request.headers.items() if name.lower() != "content-length")
        copied = unquote(headers.get("x-amz-copy-source", ""))
        for name in _CONDITIONS:
            of = copied if name.startswith("x-") else path
            if name in headers and headers[name] != "*":
                headers[name] = f'"{self._is_meant(of, headers[name].strip(chr(34)))}"'
        body = await request.content.read()
        if "<CompleteMultipartUpload" in body[:200].decode("latin-1"):
            body = _ETAG.sub(lambda found: f'{found[1]}"{self._meant[found[2]]}"{found[3]}', body.decode()).encode()
        elif self.damages_writes and request.method == "PUT" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        sent = headers.get("Content-MD5")
        if sent is not None and sent != content_md5(hashlib.md5(body, usedforsecurity=False).digest()):
            return web.Response(status=400, body=b"<Error><Code>BadDigest</Code></Error>")
        url = URL(self._upstream + raw_path, encoded=True)
        async with self._session.request(request.method, url, headers=headers, data=BytesIO(body) if body else None) as answer:
            return await self._answer(request, path, query, answer)

    async def _answer(
        self, request: web.BaseRequest, path: str, query: str, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        headers = CIMultiDict((name, value) for name, value in answer.headers.items() if name.lower().startswith(_PASSED_ON))
        writes = request.method in ("PUT", "POST") and answer.ok
        fresh: dict[str, str] = {}

        def told(etag: str) -> str:
            if writes and etag not in fresh:
                fresh[etag] = self._new(path, etag)
            return fresh.get(etag) or self._known(path, etag)

        content = await answer.read()
        listing = "list-type" in query
        if "ETag" in headers:
            headers["ETag"] = f'"{told(headers["ETag"].strip(chr(34)))}"'
        if listing:
            bucket = path.rstrip("/")
            content = _ENTRY.sub(lambda entry: self._entry(bucket, entry), content.decode()).encode()
        elif b"<ETag>" in content:
            content = _ETAG.sub(lambda found: f"{found[1]}&quot;{told(found[2])}&quot;{found[3]}", content.decode()).encode()
        if answer.ok and not listing and "tagging" not in query:
            headers.extend(self._headers)
        if request.method != "HEAD":
            headers.popall("Content-Length", None)
        return web.Response(status=answer.status, headers=headers, body=content if request.method != "HEAD" else None)

    def _entry(self, bucket: str, entry: re.Match[str]) -> str:
        path = f"{bucket}/{unquote(entry[1])}"
        return _ETAG.sub(lambda found: f"{found[1]}&quot;{self._known(path, found[2])}&quot;{found[3]}", entry[0])

    async def close(self) -> None:
        """Let go of the server behind."""
        await self._session.close()


@asynccontextmanager
async def opaque_etags(upstream: str, headers: dict[str, str]) -> AsyncIterator[tuple[str, OpaqueETags]]:
    """Its address, and itself."""
    server = OpaqueETags(upstream, headers)
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}", server
    finally:
        await runner.cleanup()
        await server.close()
