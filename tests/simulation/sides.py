"""Both sides as servers, and the clients through which a simulated process reaches them: slow, failing, sometimes lying."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from random import Random
from typing import Any, TypeVar, cast

from federation.capabilities import Capabilities
from federation.errors import FederationError, RetryLater
from federation.model import PRESERVED_PREFIX, ClockSkew, ETagKind, ListEntry, Metadata, OriginStamp, Present, Side
from federation.ports import Clock, Halfway, Reader, Upload, WriteResult
from federation.stores.memory import MemoryReader, MemoryStore, _Object
from tests.simulation.script import Rates

_T = TypeVar("_T")
Changed = Callable[["Server", str, "_Object | None", "_Object | None"], None]
SKEW_ERROR_US = 90_000
START_US = 1_700_000_000_000_000
"""True time at the start of a world."""
_CUT_BETWEEN = 0.3
"""Of the writes that take two requests, so many end between them, in worlds where calls fail at all."""
FILE_ETAG = "48ed760a74"


async def _nothing() -> None:
    """A user's requests are not delayed."""


_between: ContextVar[Callable[[], Awaitable[None]]] = ContextVar("between")


class SideClock:
    """The clock of one service: ahead or behind, and drifting."""

    def __init__(self, skew_us: int, drift_ppm: int, start_us: int) -> None:
        self._skew_us = skew_us
        self._drift_ppm = drift_ppm
        self._start_us = start_us

    def ahead_us(self) -> int:
        """How far ahead of true time now."""
        return self._skew_us + int(asyncio.get_running_loop().time() * self._drift_ppm)

    def now_us(self) -> int:
        """As the service would stamp."""
        return self._start_us + int(asyncio.get_running_loop().time() * 1_000_000) + self.ahead_us()

    def monotonic_seconds(self) -> float:
        """Virtual."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Virtual."""
        await asyncio.sleep(seconds)


class _Objects(dict[str, _Object]):
    """Tells of every change."""

    def __init__(self, server: Server, changed: Changed) -> None:
        super().__init__()
        self._server = server
        self._changed = changed

    def __setitem__(self, key: str, value: _Object) -> None:
        before = self.get(key)
        super().__setitem__(key, value)
        self._changed(self._server, key, before, value)

    def pop(self, key: str, default: Any = None) -> Any:
        before = self.get(key)
        if before is None:
            return default
        super().pop(key)
        self._changed(self._server, key, before, None)
        return before

    def vanish(self) -> None:
        """All of the users' objects are gone, and nobody is told."""
        for key in [key for key in self if not key.startswith(PRESERVED_PREFIX)]:
            super().pop(key)


SLOW_SECONDS = 1.0


class Server(MemoryStore):
    """One service. Users work on it directly and at once; processes through a ``Client``."""

    def __init__(self, side: Side, clock: SideClock, changed: Changed, raced: Callable[[Side, str], None]) -> None:
        super().__init__(side, clock=cast("Clock", clock), hook=self._race)
        self.clock = clock
        self.objects = self.watched = _Objects(self, changed)
        self.told = True
        self.away_until = 0.0
        self.looked: dict[tuple[str, object], tuple[float, str]] = {}
        """When the engine last looked at a key in a task, and the ETag it saw."""
        self.slow: dict[str, tuple[float, float]] = {}
        """When the engine's last slow request about a key was sent, and when it arrived."""
        self._raced = raced

    async def _race(self, call: str, key: str) -> None:
        """A server that ignores conditions: what is written between the look and the write is overwritten.

        Two requests for new metadata: what is between them takes time and may fail.
        """
        if call == "set_metadata":
            await _between.get(_nothing)()
        if call != "race":
            return
        before = self.objects.get(key)
        await asyncio.sleep(0.01)
        if self.objects.get(key) is not before:
            self._raced(self.side, key)

    @contextmanager
    def untold(self) -> Iterator[None]:
        """What is done here sends no event (NFS, SMB)."""
        self.told = False
        try:
            yield
        finally:
            self.told = True

    def put_now(self, key: str, data: bytes, metadata: Metadata, etag: str, stamp: OriginStamp | None = None) -> str:
        """A user's unconditional write; *etag* counts on the S3 side only."""
        return self._store(key, data, metadata, stamp, etag).etag

    def place(self, key: str, held: _Object) -> None:
        """Put an object there as it is (an NFS rename)."""
        self.objects[key] = held

    def seen(self, held: _Object) -> Present:
        """As a HEAD shows it."""
        return self._present(held)


class Client:
    """``ports.ObjectStore`` of one process."""

    def __init__(
        self,
        server: Server,
        rng: Random,
        rates: Callable[[], Rates],
        count: Callable[[str], None],
        off_us: Callable[[], int],
        listings_failed: list[float],
        *,
        page: int,
    ) -> None:
        self.side = server.side
        self.capabilities = Capabilities()
        self.race_windows = 0
        self.ordered = True
        self.sealed = True
        self.checked_bytes = 0
        self.listings_failed = listings_failed
        self._server = server
        self._rng = rng
        self._rates = rates
        self._count = count
        self._page = page
        self._off_us = off_us
        self.asked: Callable[[str], None] = lambda _: None
        self._skew_error_us = rng.randint(-SKEW_ERROR_US, SKEW_ERROR_US)

    async def _go(self) -> None:
        """The way to the server: time, and faults before any effect."""
        rates, rng = self._rates(), self._rng
        delay = rng.expovariate(1 / rates.latency_seconds) if rates.latency_seconds else 0.0
        if rng.random() < rates.slow:
            self._count("store call slow")
            delay += rng.uniform(SLOW_SECONDS, 20)
        await asyncio.sleep(delay)
        if asyncio.get_running_loop().time() < self._server.away_until:
            self._count("store away")
            raise RetryLater("no answer", reason="unreachable", side=self.side)
        if rng.random() < rates.call_before:
            self._count("store call failed")
            raise self._fault()

    async def _back(self) -> None:
        """The way back: time, and answers that are lost."""
        rates, rng = self._rates(), self._rng
        if rates.latency_seconds:
            await asyncio.sleep(rng.expovariate(1 / rates.latency_seconds))
        if rng.random() < rates.call_after:
            self._count("store answer lost")
            raise RetryLater("the answer was lost", reason=rng.choice(["timeout", "cut_short"]), side=self.side)

    def _fault(self) -> FederationError:
        kind = self._rng.choice(["throttled", "timeout", "server_error"])
        after = self._rng.uniform(0.1, 5) if kind == "throttled" else None
        return RetryLater(kind, reason=kind, side=self.side, after_seconds=after)

    async def _call(self, call: Callable[[], Awaitable[_T]], key: str = "") -> _T:
        if key:
            self.asked(key)
        sent = asyncio.get_running_loop().time()
        await self._go()
        arrived = asyncio.get_running_loop().time()
        if arrived - sent >= SLOW_SECONDS:
            self._server.slow[key] = (sent, arrived)
        try:
            result = await call()
        except FederationError:
            await self._back()
            raise
        await self._back()
        return result

    async def check(self) -> None:
        """As in the port."""
        await self._call(self._server.check)

    async def probe(self) -> Capabilities:
        """As in the port."""
        self.capabilities = await self._call(self._server.probe)
        return self.capabilities

    async def head(self, key: str) -> Present:
        """As in the port."""
        return await self._call(lambda: self._seen(key, self._server.head(key)), key)

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> Reader:
        """As in the port."""
        opened = self._server.open
        reader = await self._call(lambda: self._seen(key, opened(key, if_match=if_match, start=start, length=length)), key)
        return _Reader(self, self._server, key, reader, start)

    async def open_version(self, key: str, version_id: str, *, start: int = 0, length: int | None = None) -> Reader:
        """As in the port."""
        return await self._call(lambda: self._server.open_version(key, version_id, start=start, length=length), key)

    async def _seen(self, key: str, answer: Awaitable[_T]) -> _T:
        result = await answer
        etag = (result if isinstance(result, Present) else cast("MemoryReader", result).present).version.etag
        self._server.looked[key, asyncio.current_task()] = asyncio.get_running_loop().time(), etag
        return result

    async def put(
        self, key: str, data: bytes, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str | None
    ) -> WriteResult:
        """As in the port."""
        put = partial(self._server.put, key, data, metadata, stamp=stamp, expected_etag=expected_etag)
        return await self._call(put, key)

    async def begin_upload(self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, size_bytes: int) -> Upload:
        """As in the port."""
        begin = partial(self._server.begin_upload, key, metadata, stamp=stamp, size_bytes=size_bytes)
        upload = await self._call(begin, key)
        return _Upload(self, upload)

    def resume_upload(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, upload_id: str, parts: Mapping[int, str]
    ) -> Upload:
        """As in the port."""
        return _Upload(self, self._server.resume_upload(key, metadata, stamp=stamp, upload_id=upload_id, parts=parts))

    async def replace_metadata(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str, halfway: Halfway | None = None
    ) -> WriteResult:
        """As in the port."""

        async def between() -> None:
            self._count("metadata half-written")
            await self._back()
            if self._rates().call_before and self._rng.random() < _CUT_BETWEEN:
                raise self._fault()
            await self._go()

        _between.set(between)
        replace = self._server.replace_metadata
        return await self._call(lambda: replace(key, metadata, stamp=stamp, expected_etag=expected_etag, halfway=halfway), key)

    async def delete(self, key: str, *, expected_etag: str) -> None:
        """As in the port."""
        await self._call(lambda: self._server.delete(key, expected_etag=expected_etag), key)

    async def copy(self, source_key: str, target_key: str, *, source_etag: str) -> WriteResult:
        """As in the port."""
        return await self._call(lambda: self._server.copy(source_key, target_key, source_etag=source_etag), source_key)

    async def list(self, *, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        """As in the port: page by page, each as old as when it was asked for."""
        after = start_after
        while True:
            try:
                page = await self._call(partial(self._list_page, prefix, after))
            except FederationError:
                self._listing_failed(prefix)
                raise
            cut = self._cut(len(page))
            for entry in page[:cut]:
                yield entry
            if cut < len(page):
                self._listing_failed(prefix)
                raise RetryLater("the listing was cut short", reason="cut_short", side=self.side)
            if len(page) < self._page:
                return
            after = page[-1].key

    async def holds_any(self) -> bool:
        """As in the port."""
        return await self._call(self._server.holds_any)

    def _listing_failed(self, prefix: str) -> None:
        if not prefix.startswith(PRESERVED_PREFIX):  # the kept losers' is gone on with by the end of the same scan
            self.listings_failed.append(asyncio.get_running_loop().time())

    def _cut(self, length: int) -> int:
        """How many entries of a page come before the answer breaks off."""
        rate = self._rates().listing_cut
        if not length or not rate or self._rng.random() >= rate:
            return length
        self._count("listing cut short")
        return self._rng.randrange(length)

    async def _list_page(self, prefix: str, after: str) -> tuple[ListEntry, ...]:
        entries = [entry async for entry in self._server.list(prefix=prefix, start_after=after)]
        return tuple(entries[: self._page])

    async def clock_skew(self) -> ClockSkew:
        """As measured: not exactly."""
        return ClockSkew(self._server.clock.ahead_us() - self._off_us() + self._skew_error_us, SKEW_ERROR_US)

    async def close(self) -> None:
        """Nothing to release."""


class _Reader:
    """A GET under way. A file written meanwhile gives old bytes and new ones."""

    def __init__(self, client: Client, server: Server, key: str, reader: MemoryReader, start: int) -> None:
        self._start = start
        self.present = reader.present
        self._client = client
        self._server = server
        self._key = key
        self._data = reader._data

    def _now(self) -> bytes:
        live = self._server.objects.get(self._key)
        if self.present.version.etag_kind is not ETagKind.FILE_SIDE or live is None or not live.etag.startswith(FILE_ETAG):
            return self._data
        return live.data[self._start :].ljust(len(self._data))[: len(self._data)]

    async def read(self) -> bytes:
        """As in the port."""
        half = len(self._data) // 2
        first = self._data[:half]
        await self._client._back()
        return first + self._now()[half:]

    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        """As in the port."""
        for start in range(0, len(self._data), size_bytes):
            await self._client._back()
            yield self._now()[start : start + size_bytes]

    async def close(self) -> None:
        """Nothing to release."""


class _Upload:
    def __init__(self, client: Client, upload: Upload) -> None:
        self._client = client
        self._upload = upload
        self.upload_id = upload.upload_id

    async def put_part(self, number: int, data: bytes, *, md5: bytes | None = None) -> str:
        return await self._client._call(lambda: self._upload.put_part(number, data, md5=md5))

    async def complete(self, *, expected_etag: str | None, md5_hex: str) -> WriteResult:
        return await self._client._call(lambda: self._upload.complete(expected_etag=expected_etag, md5_hex=md5_hex))

    async def abort(self) -> None:
        await self._client._call(self._upload.abort)
