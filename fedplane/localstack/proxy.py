"""A forwarding HTTP proxy: every request goes on untouched and streaming; a confirmed write is told to a watcher afterwards."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn
from urllib.parse import parse_qsl, unquote

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from fedplane.localstack.content_faults import READING, SENDING, ContentFault, in_one
from fedplane.localstack.faults import RequestFaults

_HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade",
    "expect",
})  # fmt: skip
_WHOLE_BYTES = 1024 * 1024
"""Bodies up to this size are passed on in one piece, so that a watcher may look at them."""
_LISTINGS = 10_000
_PROBES = "/.federation/probe/"
_ENGINE = "fedplane/"


Words = tuple[bytes, dict[str, str]]
"""Body and headers of an answer."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that was answered. Bodies are None where they were streamed."""

    method: str
    raw_path: str
    query: dict[str, str]
    headers: CIMultiDictProxy[str]
    body: bytes | None
    status: int
    answer_headers: CIMultiDictProxy[str]
    answer: bytes | None
    client: str
    at: datetime
    """When the server confirmed it."""

    @property
    def ok(self) -> bool:
        """Whether the server confirmed it."""
        return 200 <= self.status < 300  # noqa: PLR2004

    @property
    def segments(self) -> tuple[str, str]:
        """First path segment and the rest, percent-decoded once: bucket and key."""
        first, _, rest = self.raw_path.lstrip("/").partition("?")[0].partition("/")
        return unquote(first), unquote(rest)


class Watcher(ABC):
    """Knows one service: names operations, tells errors in its words, and emits events."""

    @abstractmethod
    def operation(self, method: str, raw_path: str, query: dict[str, str], headers: CIMultiDictProxy[str]) -> str:
        """Name of the operation, for the counters."""

    @abstractmethod
    async def confirmed(self, exchange: Exchange) -> None:
        """A request was answered; emit what the real service would."""

    @abstractmethod
    def refusal(self, status: int) -> Words:
        """The service's words for overload, and with 403 and 404 for refused credentials and a container that is not there."""

    @abstractmethod
    def nothing(self) -> tuple[Words, Words]:
        """The service's words for a whole listing without entries, and for an object that is not there."""


class Proxy:
    """Forwards to *upstream* (``http://127.0.0.1:port``)."""

    def __init__(self, upstream: str, watcher: Watcher) -> None:
        self._upstream = upstream
        self._watcher = watcher
        self._session: aiohttp.ClientSession | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._random = random.Random()  # noqa: S311 - fault injection
        self._faults = RequestFaults()
        self._faults_until: float | None = None
        self._pages_left = 0
        self._set_anew = asyncio.Event()
        self.held_pages = 0
        """List pages that wait for other knobs."""
        self.requests: Counter[tuple[str, str, str, str]] = Counter()
        self.bytes: Counter[tuple[str, str, str]] = Counter()
        self.injected: Counter[str] = Counter()
        self.listings: deque[tuple[str, str]] = deque(maxlen=_LISTINGS)
        """The last pages that were asked for: client and query."""

    def configure(self, faults: RequestFaults) -> None:
        """Use these faults from now on."""
        self._faults = faults
        self._faults_until = None if faults.for_seconds is None else time.monotonic() + faults.for_seconds
        self._pages_left = faults.list_pages or 0
        self._set_anew.set()
        self._set_anew = asyncio.Event()

    def _active(self, client: str) -> RequestFaults | None:
        over = self._faults_until is not None and time.monotonic() >= self._faults_until
        return None if over or self._faults.client not in ("", client) else self._faults

    async def open(self) -> None:
        """Get ready to forward."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            read_bufsize=256 * 1024,
        )

    async def close(self) -> None:
        """Finish telling what was confirmed, then let go."""
        await asyncio.gather(*self._telling, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward one request."""
        raw_path = request.message.path
        query = dict(parse_qsl(raw_path.partition("?")[2], keep_blank_values=True))
        client = "fedplane" if _ENGINE in request.headers.get("User-Agent", "") else "user"
        operation = self._watcher.operation(request.method, raw_path, query, request.headers)
        if request.headers.get("Expect", "").lower() == "100-continue":
            # S3 SDKs wait up to a second for this before they send a body.
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        if operation == "list":
            self.listings.append((client, raw_path.partition("?")[2]))
            await self._let_through(request, client)
        faults = self._active(client)
        refused = await self._inject(request, faults) or self._emptied(operation, faults)
        if refused is not None:
            self.requests[client, request.method, _counted(operation, raw_path), f"{refused.status // 100}xx"] += 1
            return refused
        return await self._forward(request, _Call(raw_path, query, client, operation), faults)

    async def _let_through(self, request: web.BaseRequest, client: str) -> None:
        """Wait while list pages are held. A client that is gone when they go on lists nothing."""
        while (faults := self._active(client)) is not None and faults.list_pages is not None and _connected(request):
            if self._pages_left:
                self._pages_left -= 1
                return
            self.held_pages += 1
            try:
                await self._set_anew.wait()
            finally:
                self.held_pages -= 1
        if not _connected(request):
            self._close(request)

    async def _inject(self, request: web.BaseRequest, faults: RequestFaults | None) -> web.StreamResponse | None:
        if faults is None:
            return None
        if faults.latency_ms:
            await asyncio.sleep(faults.latency_ms / 1000)
        if faults.error and self._random.random() < faults.error:
            self.injected["errors"] += 1
            async for _ in request.content.iter_any():  # read whatever its size, so that the connection can be used on
                continue
            body, headers = self._watcher.refusal(faults.status)
            if faults.retry_after_seconds is not None:
                headers["Retry-After"] = str(faults.retry_after_seconds)
            return web.Response(status=faults.status, body=b"" if request.method == "HEAD" else body, headers=headers)
        if faults.cut and not faults.cut_after_effect and self._random.random() < faults.cut:
            self._cut(request)
        return None

    def _emptied(self, operation: str, faults: RequestFaults | None) -> web.StreamResponse | None:
        if faults is None or not faults.emptied or operation not in ("list", "get", "head"):
            return None
        self.injected["emptied"] += 1
        (body, headers), (not_found, more) = self._watcher.nothing()
        if operation == "list":
            return web.Response(body=body, headers=headers)
        return web.Response(status=404, body=b"" if operation == "head" else not_found, headers=more)

    def _cut(self, request: web.BaseRequest) -> None:
        self.injected["cuts"] += 1
        self._close(request)

    def _close(self, request: web.BaseRequest) -> NoReturn:
        if request.transport is not None:
            request.transport.abort()
        raise web.HTTPServiceUnavailable

    def _content_fault(self, faults: RequestFaults | None, call: _Call, of: frozenset[str], size: int | None) -> ContentFault:
        applies = faults if call.operation in of else None
        return ContentFault(applies, self._random, size or 0, lambda name: self.injected.update([name]))

    async def _forward(self, request: web.BaseRequest, call: _Call, faults: RequestFaults | None) -> web.StreamResponse:
        assert self._session is not None  # noqa: S101 - open() came first
        headers = CIMultiDict((name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP)
        fault = self._content_fault(faults, call, SENDING, request.content_length)
        whole = _is_small(request.content_length) and "Transfer-Encoding" not in request.headers
        body = await request.read() if whole else None
        data: AsyncIterator[bytes] | bytes | None = body
        if body is None:
            data = fault.passed(self._count(request.content.iter_any(), call, "request"))
        elif fault.any:
            data = fault.passed(in_one(body))
            headers["Content-Length"] = str(len(body))
        url = URL(f"{self._upstream}{call.raw_path}", encoded=True)
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=data, allow_redirects=False, compress=None
            ) as answer:
                counted = _counted(call.operation, call.raw_path)
                self.requests[call.client, request.method, counted, f"{answer.status // 100}xx"] += 1
                self.bytes[call.client, call.operation, "request"] += len(body or b"")
                call.confirmed = datetime.now(UTC)
                if faults is not None and faults.cut_after_effect and self._random.random() < faults.cut:
                    await self._tell(request, call, body, answer, await answer.read())
                    self._cut(request)
                fault = self._content_fault(faults, call, READING, answer.content_length if answer.ok else 0)
                return await self._answer(request, call, body, answer, fault)
        except ConnectionResetError:
            self._close(request)
        except aiohttp.ClientError as error:
            self.injected["upstream_faults"] += 1
            raise web.HTTPBadGateway(text=f"the server behind the proxy does not answer: {type(error).__name__}") from error

    async def _answer(
        self, request: web.BaseRequest, call: _Call, body: bytes | None, answer: aiohttp.ClientResponse, fault: ContentFault
    ) -> web.StreamResponse:
        headers = CIMultiDict((name, value) for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP)
        if request.method != "HEAD" and _is_small(answer.content_length) and answer.content_length is not None and not fault.any:
            content = await answer.read()
            self.bytes[call.client, call.operation, "answer"] += len(content)
            headers.popall("Content-Length", None)
            await self._tell(request, call, body, answer, content)
            return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=content)
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
        await response.prepare(request)
        if request.method != "HEAD":
            async for chunk in fault.passed(self._count(answer.content.iter_any(), call, "answer")):
                await response.write(chunk)
        await response.write_eof()
        await self._tell(request, call, body, answer, None)
        return response

    async def _tell(
        self,
        request: web.BaseRequest,
        call: _Call,
        body: bytes | None,
        answer: aiohttp.ClientResponse,
        content: bytes | None,
    ) -> None:
        if request.method in ("GET", "HEAD"):
            return
        exchange = Exchange(
            method=request.method,
            raw_path=call.raw_path,
            query=call.query,
            headers=request.headers,
            body=body,
            status=answer.status,
            answer_headers=answer.headers,
            answer=content,
            client=call.client,
            at=call.confirmed or datetime.now(UTC),
        )
        task = asyncio.create_task(self._watcher.confirmed(exchange))
        self._telling.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[None]) -> None:
        self._telling.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.injected["watcher_faults"] += 1
            asyncio.get_running_loop().call_exception_handler({"message": "watcher failed", "exception": task.exception()})

    async def _count(self, chunks: AsyncIterator[bytes], call: _Call, what: str) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.bytes[call.client, call.operation, what] += len(chunk)
            yield chunk

    def stats(self) -> dict[str, object]:
        """Counters, for JSON."""
        return {
            "requests": [
                {"client": client, "method": method, "operation": operation, "status": status, "count": count}
                for (client, method, operation, status), count in sorted(self.requests.items())
            ],
            "bytes": [
                {"client": client, "operation": operation, "of": what, "bytes": count}
                for (client, operation, what), count in sorted(self.bytes.items())
            ],
            "injected": dict(self.injected),
            "held_pages": self.held_pages,
        }

    def reset(self) -> None:
        """Start counting anew."""
        self.requests.clear()
        self.bytes.clear()
        self.injected.clear()
        self.listings.clear()


def _counted(operation: str, raw_path: str) -> str:
    """Its name in the counters, which tell what an engine does to find out what a server can do from what it does to objects."""
    return f"{operation} (probe)" if _PROBES in raw_path else operation


@dataclass(slots=True)
class _Call:
    raw_path: str
    query: dict[str, str]
    client: str
    operation: str
    confirmed: datetime | None = None


def _connected(request: web.BaseRequest) -> bool:
    return request.transport is not None and not request.transport.is_closing()


def _is_small(length: int | None) -> bool:
    return length is None or length <= _WHOLE_BYTES
