"""The HTTP lane of both stores: a pooled session, bounded timeouts, no hidden retries, network faults as our errors."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus

import aiohttp
from yarl import URL

from federation import sent, trace
from federation.errors import FederationError, Park, RetryLater
from federation.model import SECOND_US, UNMEASURED_US, ClockSkew, Present, Side, Trace

USER_AGENT = "fedplane/0.1"
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
"""Patience with a peer that sends nothing, or takes nothing of what is sent to it."""
LEAST_BYTES_PER_SECOND = 4 * 1024
"""Of an answer's body, on average after ``READ_SECONDS``: what 300 transfers at once have of 10 Mbit/s."""
_WHOLE_SECONDS = 900.0
"""Patience with an answer that is read whole: S3 sends blanks while it puts an object together, for minutes where it is large."""
_REFUSAL_BYTES = 64 * 1024
"""Read of a refusal, whose code stands near its front."""
_LET_GO_SECONDS = 3 * READ_SECONDS
"""After this the kernel drops a connection whose peer takes nothing; later than we give up, so that we can say why."""
_IDLE_SECONDS = 4.0
"""Kept connections are let go before the servers that end theirs first (after 5 s) do: a request must not meet their end."""
_BUFFER_BYTES = 256 * 1024
_HEADER_BYTES = 16 * 1024
_HEADER_LINES = 8 * 1024 + 64
"""Room for all user metadata that Azure takes (8 KiB of names and values), be it one value or one byte an entry."""
_SAMPLES_A_WINDOW = 1_000

_Bounds = tuple[int, int]


def wall_us() -> int:
    """Wall clock, microseconds since 1970 UTC."""
    return time.time_ns() // 1_000


@lru_cache(maxsize=4096)
def http_date_us(text: str) -> int:
    """Microseconds since 1970 of an HTTP date (whole seconds). Raises ValueError."""
    try:
        return int(parsedate_to_datetime(text).timestamp()) * SECOND_US
    except OverflowError:  # a zone or a year of twenty digits
        raise ValueError("no time that there is") from None


def unquote_etag(text: str) -> str:
    """An ETag without its quotes and weakness mark."""
    return text.removeprefix("W/").strip('"')


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the service did what was asked."""
        return self.status < HTTPStatus.MULTIPLE_CHOICES


class SkewMeter:
    """Service's clock minus ours, from ``Date`` headers, which hold whole seconds.

    Each answer bounds the skew by an interval; the bounds of the newest answers are intersected, those of one window and of the
    one before it, so that drift is followed. An empty intersection means that a clock was set: start over with the newest answer.
    Some servers write the header once a second and hand it out meanwhile, so it may be a second late; that cannot be told from a
    clock that is slow by less than a second.
    """

    def __init__(self) -> None:
        self._window: _Bounds | None = None
        self._before: _Bounds | None = None
        self._samples = 0

    def note(self, date: str | None, sent_us: int, received_us: int) -> None:
        """Take in the ``Date`` of one answer, if it had a readable one."""
        try:
            stamped_us = http_date_us(date or "")
        except (TypeError, ValueError):
            return
        low_us, high_us = stamped_us - received_us, stamped_us + SECOND_US - sent_us
        new = min(low_us, high_us), max(low_us, high_us)
        narrowed = _common(self._window, new)
        if narrowed is None:
            self._before, self._window, self._samples = None, new, 1
        elif self._samples == _SAMPLES_A_WINDOW:
            self._before, self._window, self._samples = self._window, new, 1
        else:
            self._window, self._samples = narrowed, self._samples + 1

    @property
    def measured(self) -> ClockSkew:
        """Zero while the clocks may agree, else the middle of what is possible; never further off than its uncertainty."""
        bounds = _common(self._before, self._window) or self._window
        if bounds is None:
            return ClockSkew(0, UNMEASURED_US)
        low_us, high_us = bounds
        latest_us = high_us + SECOND_US
        if low_us <= 0 <= latest_us:
            return ClockSkew(0, max(-low_us, abs(high_us)))
        middle_us = (low_us + latest_us) // 2
        return ClockSkew(middle_us, latest_us - middle_us)


def _common(one: _Bounds | None, two: _Bounds | None) -> _Bounds | None:
    if one is None or two is None:
        return None
    low_us, high_us = max(one[0], two[0]), min(one[1], two[1])
    return (low_us, high_us) if low_us <= high_us else None


class HttpLane:
    """Requests of one store. The session is made at the first request, in the running loop."""

    def __init__(self, side: Side, *, ca_file: str = "", now_us: Callable[[], int] = wall_us) -> None:
        self.side = side
        self.skew = SkewMeter()
        self._ca_file = ca_file
        self._now_us = now_us
        self._session: aiohttp.ClientSession | None = None

    async def start(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> aiohttp.ClientResponse:
        """Send one request and return when the head of the answer is there; the caller reads or closes it.

        Args:
            method: HTTP method.
            url: fully percent-encoded, sent as it is.
            headers: all headers but Host, User-Agent and Content-Length.
            body: request body; None sends none.

        Raises:
            RetryLater: reason "unreachable" or "timeout".
        """
        sent_us = self._now_us()
        sent.one()
        if (at_work := trace.current.get()) is not None:
            headers = {**headers, **self._traced(at_work)}
        try:
            response = await self._send(method, url, headers, body)
        except (aiohttp.ClientError, OSError) as error:
            raise network_fault(self.side, error) from None
        self.skew.note(response.headers.get("Date"), sent_us, self._now_us())
        return response

    async def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> aiohttp.ClientResponse:
        """The head of the answer. Raises TimeoutError, also where aiohttp would wait: its clock starts after the body."""
        data: bytes | _Slices | None = body
        # Once for a piece of the body and once for the answer, which is all of a small request.
        async with asyncio.timeout(2 * READ_SECONDS) as patience:
            if body is not None and len(body) > _BUFFER_BYTES:
                headers = {**headers, "Content-Length": str(len(body))}
                data = _Slices(body, patience)
            try:
                return await self._ready().request(
                    method,
                    URL(url, encoded=True),
                    headers=headers,
                    data=data,
                    allow_redirects=False,
                    skip_auto_headers=("Content-Type",),
                )
            finally:
                if isinstance(data, _Slices):
                    data.watched = False

    def _traced(self, at_work: Trace) -> dict[str, str]:
        """Not signed, so that a proxy on the way may put its own span in. Azure logs the client's id, S3 has none."""
        told = trace.headers(at_work)
        return told | {"x-ms-client-request-id": told[trace.HEADER]} if self.side is Side.BLOB else told

    async def call(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send one request and read the whole answer, whatever its status. Raises RetryLater."""
        response = await self.start(method, url, headers, body)
        return Answer(response.status, response.headers, await self.read(response))

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body of *response*, of a refusal its front, then release it. Raises RetryLater, also when it is cut short."""
        refusal = bytearray()
        try:
            async with asyncio.timeout(_WHOLE_SECONDS):  # a byte now and then keeps no place for ever
                if response.status < HTTPStatus.MULTIPLE_CHOICES:
                    return await response.read()
                async for block in response.content.iter_any():
                    refusal += block
                    if len(refusal) >= _REFUSAL_BYTES:
                        response.close()
                        break
        except (aiohttp.ClientError, OSError) as error:
            raise network_fault(self.side, error) from None
        finally:
            response.release()
        return bytes(refusal)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _ready(self) -> aiohttp.ClientSession:
        if self._session is None:
            tls = ssl.create_default_context(cafile=self._ca_file or None)
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS, ssl=tls, socket_factory=_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
                auto_decompress=False,
                max_field_size=_HEADER_BYTES,
                max_headers=_HEADER_LINES,
                read_bufsize=_BUFFER_BYTES,
            )
            # It would send a GET, PUT or DELETE once more when a kept connection breaks: unpaced, uncounted, and a conditional
            # write whose first sending took effect would be refused by its own condition. No option says so; a test does.
            session._retry_connection = False  # noqa: SLF001
            self._session = session
        return self._session


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that does not outlive its request by long: what was given up would wait for a peer that takes nothing."""
    made = socket.socket(*address[:3])
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: elsewhere such a connection stays until its peer ends it
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_LET_GO_SECONDS * 1_000))
    return made


class _Slices:
    """A large body bit by bit and without a copy of it, so that neither memory nor the event loop is held up.

    A piece that is asked for says that those before it were taken, and renews *patience* while the request is ``watched``: an
    answer may come before all of the body went.
    """

    def __init__(self, body: bytes, patience: asyncio.Timeout) -> None:
        self.watched = True
        self._body = body
        self._patience = patience

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        view = memoryview(self._body)
        for start in range(0, len(view), _BUFFER_BYTES):
            self._renew(READ_SECONDS)
            yield view[start : start + _BUFFER_BYTES]
        self._renew(2 * READ_SECONDS)

    def _renew(self, seconds: float) -> None:
        if self.watched and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time() + seconds)


def network_fault(side: Side, error: Exception) -> FederationError:
    """What a fault below HTTP means. The text never holds the URL, whose query may be a signature (rule 10)."""
    if isinstance(error, aiohttp.InvalidURL):
        return Park(f"{side}: the name cannot be put in a URL", reason="name_refused", side=side)
    if isinstance(error, TimeoutError):
        return RetryLater(f"{side}: no answer in time", reason="timeout", side=side)
    if isinstance(error, aiohttp.ClientPayloadError):
        return RetryLater(f"{side}: the answer was cut short", reason="cut_short", side=side)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        text = f"{side}: the certificate of {error.host}:{error.port} was refused; set ca_file or correct the endpoint"
        return RetryLater(text, reason="unreachable", side=side)
    if isinstance(error, aiohttp.ClientConnectorError):
        text = f"{side}: cannot connect to {error.host}:{error.port} ({error.strerror or type(error).__name__})"
        return RetryLater(text, reason="unreachable", side=side)
    return RetryLater(f"{side}: the connection failed ({type(error).__name__})", reason="unreachable", side=side)


class HttpReader:
    """``ports.Reader`` over one response."""

    def __init__(
        self, lane: HttpLane, response: aiohttp.ClientResponse, present: Present, *, content_md5: str | None = None
    ) -> None:
        """*content_md5*: of just the bytes of this answer, in base64, where the side tells it."""
        self.present = present
        self._content_md5 = content_md5
        self._lane = lane
        self._response = response

    async def read(self) -> bytes:
        """As in the port."""
        blocks = [block async for block in self.chunks(_BUFFER_BYTES)]
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        """As in the port."""
        total_bytes, digest = 0, hashlib.md5(usedforsecurity=False) if self._content_md5 else None
        try:
            async for block in self._blocks():
                total_bytes += len(block)
                if digest is not None:
                    digest.update(block)
                for start in range(0, len(block), size_bytes):
                    yield block[start : start + size_bytes]
        except (aiohttp.ClientError, OSError) as error:
            raise network_fault(self._lane.side, error) from None
        self._complete(total_bytes)
        if digest is not None and base64.b64encode(digest.digest()).decode() != self._content_md5:
            raise RetryLater("the bytes of an answer do not fit its MD5", reason="content_mismatch", side=self._lane.side)

    async def _blocks(self) -> AsyncIterator[bytes]:
        """As they came from the socket, not joined: each copy of a byte costs about as much as receiving it.

        Raises TimeoutError, of a peer that keeps its connection by a byte now and then too. Only what is waited for here counts:
        what the caller does with a block, and how long its own rates hold it back, is no fault of the peer's.
        """
        now, total_bytes, waited_seconds = asyncio.get_running_loop().time, 0, 0.0
        asked_seconds = now()
        async for block, _ in self._response.content.iter_chunks():
            if not block and self._response.content.at_eof():
                break  # aiohttp's one stream for all empty bodies ends itself but once in a process, and then yields for ever
            total_bytes += len(block)
            waited_seconds += now() - asked_seconds
            if waited_seconds > READ_SECONDS + total_bytes / LEAST_BYTES_PER_SECOND:
                raise TimeoutError
            yield block
            asked_seconds = now()

    async def close(self) -> None:
        """As in the port."""
        self._response.close()

    def _complete(self, received_bytes: int) -> None:
        announced = self._response.headers.get("Content-Length")
        if announced is not None and int(announced) != received_bytes:
            raise RetryLater("the answer was cut short", reason="cut_short", side=self._lane.side)
