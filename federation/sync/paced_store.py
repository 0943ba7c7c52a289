"""A store behind its gate: paces, counts what one key cost, and tells the gate how it went."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from federation import sent
from federation.capabilities import Capabilities
from federation.errors import FederationError, RetryLater
from federation.model import ClockSkew, ListEntry, Metadata, OriginStamp, Present
from federation.ports import Halfway, ObjectStore, Reader, Upload, WriteResult
from federation.sync.confirm import to_confirm
from federation.sync.pacing import LONGEST_REST_SECONDS, Gate

_T = TypeVar("_T")
_SOME_BYTES = 1024 * 1024
"""Of a body, that show that the side works before all of it is there."""
_QUICK_BYTES = 64 * 1024
"""Calls that send no more than this tell how quickly the side answers."""


@dataclass(slots=True)
class Tally:
    """What one key's work cost in requests to the stores and in content bytes."""

    requests_by_side: Counter[str] = field(default_factory=Counter)
    read_bytes: int = 0
    written_bytes: int = 0

    @property
    def requests(self) -> int:
        """To both sides."""
        return self.requests_by_side.total()


tally: ContextVar[Tally] = ContextVar("tally")
"""The tally of the key at work in this task; set by the worker."""


fence: ContextVar[Callable[[], None]] = ContextVar("fence")
"""Raises LeaseLost when the key at work in this task may have passed to another worker; set by the worker."""


class PacedStore:
    """``ports.ObjectStore`` around another.

    Nothing is written for a key whose lease is lost: what was decided rests on a base that its new owner may have moved on from,
    and where a side holds nothing, no condition tells the two apart.
    """

    def __init__(self, store: ObjectStore, gate: Gate) -> None:
        self._store = store
        self.gate = gate
        self.side = store.side

    @property
    def capabilities(self) -> Capabilities:
        """Of the store behind."""
        return self._store.capabilities

    @capabilities.setter
    def capabilities(self, value: Capabilities) -> None:
        self._store.capabilities = value

    @property
    def race_windows(self) -> int:
        """Of the store behind."""
        return self._store.race_windows

    @race_windows.setter
    def race_windows(self, value: int) -> None:
        self._store.race_windows = value

    @property
    def ordered(self) -> bool:
        """Of the store behind."""
        return self._store.ordered

    @ordered.setter
    def ordered(self, value: bool) -> None:
        self._store.ordered = value

    @property
    def sealed(self) -> bool:
        """Of the store behind."""
        return self._store.sealed

    @property
    def checked_bytes(self) -> int:
        """Of the store behind."""
        return self._store.checked_bytes

    async def _call(
        self,
        call: Callable[[], Awaitable[_T]],
        *,
        admitted: Callable[[], None] | None = None,
        confirmed: Sequence[Callable[[], Awaitable[None]]] = (),
        size_bytes: int = 0,
        quick: bool = True,
        whole: bool = True,
    ) -> _T:
        """One request, or what the store needs for one of the port's calls, that sends *size_bytes* of content.

        *quick*: how long it takes tells how the side is, and not how much it has to do for it. Not *whole*: only the head of the
        answer, which proves little.
        *confirmed* and then *admitted* may say no once the bandwidth and a place are there. What a closed gate refuses anyhow
        takes nothing of the rates.
        """
        if admitted is not None:
            self.gate.look()
        await self.gate.pay(size_bytes)  # before: who waits for bandwidth holds no place
        place = await self.gate.enter()
        try:
            with self.gate.inside():
                for step in confirmed:
                    await step()
            if admitted is not None:
                admitted()
        except BaseException:
            place.close()
            raise
        current = tally.get(None)
        if current is not None:
            current.requests_by_side[self.side.value] += 1
        begun = self.gate.clock.monotonic_seconds()
        try:
            with self._telling(), self._counting(current):
                result = await call()
        finally:
            place.close()
        if whole:
            self.gate.succeeded()
        if quick and size_bytes <= _QUICK_BYTES:
            self.gate.answered(self.gate.clock.monotonic_seconds() - begun)
        else:
            self.gate.answered_untimed()
        return result

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except FederationError as error:
            if isinstance(error, RetryLater) and not error.answered and error.reason != "redis_unavailable":
                self.gate.failed(error)
            else:
                self.gate.succeeded()  # an answer, if not the one hoped for; it was Redis that failed between two requests
            raise
        except asyncio.CancelledError:
            self.gate.abandoned()
            raise

    @contextmanager
    def _counting(self, current: Tally | None) -> Iterator[None]:
        """One request is counted and paid for before; each beyond it as it leaves: who comes next waits for that."""

        def more() -> None:
            self.gate.took(1)
            if current is not None:
                current.requests_by_side[self.side.value] += 1

        before = sent.current.set(sent.Requests(more))
        try:
            yield
        finally:
            sent.current.reset(before)

    async def call_to_write(self, call: Callable[[], Awaitable[_T]], *, size_bytes: int = 0, quick: bool = True) -> _T:
        """As ``_call``, while the key is still ours, and as ``confirmed_by`` asks."""
        steps = to_confirm.get(())
        return await self._call(call, admitted=self._admit_write, confirmed=steps, size_bytes=size_bytes, quick=quick)

    def _admit_write(self) -> None:
        _require_ours()
        self.gate.admit()

    async def check(self) -> None:
        """As in the port; passes a closed gate, since it is how a side is found to be back."""
        await self._call(self._store.check)

    async def probe(self) -> Capabilities:
        """As in the port."""
        return await self._call(self._store.probe, admitted=self.gate.admit, quick=False)

    async def head(self, key: str) -> Present:
        """As in the port."""
        return await self._call(lambda: self._store.head(key), admitted=self.gate.admit)

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> Reader:
        """As in the port."""
        opening = partial(self._store.open, key, if_match=if_match, start=start, length=length)
        return _PacedReader(await self._call(opening, admitted=self.gate.admit, whole=False), self.gate, key)

    async def open_version(self, key: str, version_id: str, *, start: int = 0, length: int | None = None) -> Reader:
        """As in the port."""
        opening = partial(self._store.open_version, key, version_id, start=start, length=length)
        return _PacedReader(await self._call(opening, admitted=self.gate.admit, whole=False), self.gate, key)

    async def put(
        self, key: str, data: bytes, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str | None
    ) -> WriteResult:
        """As in the port."""
        put = partial(self._store.put, key, data, metadata, stamp=stamp, expected_etag=expected_etag)
        result = await self.call_to_write(put, size_bytes=len(data))
        _wrote(len(data))
        return result

    async def begin_upload(self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, size_bytes: int) -> Upload:
        """As in the port."""
        upload = await self.call_to_write(lambda: self._store.begin_upload(key, metadata, stamp=stamp, size_bytes=size_bytes))
        return _PacedUpload(upload, self, shared=False)

    def resume_upload(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, upload_id: str, parts: Mapping[int, str]
    ) -> Upload:
        """As in the port."""
        upload = self._store.resume_upload(key, metadata, stamp=stamp, upload_id=upload_id, parts=parts)
        return _PacedUpload(upload, self, shared=True)

    async def replace_metadata(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str, halfway: Halfway | None = None
    ) -> WriteResult:
        """As in the port."""
        replace = partial(self._store.replace_metadata, key, metadata, stamp=stamp, expected_etag=expected_etag, halfway=halfway)
        return await self.call_to_write(replace, quick=False)

    async def delete(self, key: str, *, expected_etag: str) -> None:
        """As in the port."""
        await self.call_to_write(lambda: self._store.delete(key, expected_etag=expected_etag))

    async def copy(self, source_key: str, target_key: str, *, source_etag: str) -> WriteResult:
        """As in the port."""
        return await self.call_to_write(partial(self._store.copy, source_key, target_key, source_etag=source_etag), quick=False)

    async def list(self, *, prefix: str = "", start_after: str = "") -> AsyncGenerator[ListEntry, None]:
        """As in the port. Begins when the gate is open, and rests once for as many entries as a page has (``Gate.rest``).

        It holds no place among the calls: whoever reads it may take any time. Once it is under way a closed gate slows it, and
        only the side itself ends it: what is listed cannot be kept everywhere. The pass that a store without order makes first is
        one step of it.
        """
        await self.gate.opened(self.gate.clock.monotonic_seconds() + LONGEST_REST_SECONDS)
        await self.gate.rest()
        self.gate.admit()
        page, count, trouble = max(1, self.capabilities.page_size), 0, self.gate.trouble
        entries = self._store.list(prefix=prefix, start_after=start_after)
        try:
            with self._telling():
                async for entry in entries:
                    if not count:  # later ones may be from what was read before
                        self._listed(trouble)
                    yield entry
                    count += 1
                    if count % page == 0:
                        await self.gate.rest()
                if not count:
                    self._listed(trouble)
        finally:
            if isinstance(entries, AsyncGenerator):
                await entries.aclose()

    def _listed(self, trouble: tuple[int, float]) -> None:
        """The side answered; others may have failed since *trouble* was seen, and theirs is the later word."""
        if trouble == self.gate.trouble:
            self.gate.succeeded()

    async def holds_any(self) -> bool:
        """As in the port. Waits for the gate as a listing does."""
        await self.gate.opened(self.gate.clock.monotonic_seconds() + LONGEST_REST_SECONDS)
        return await self._call(self._store.holds_any, admitted=self.gate.admit, quick=False)

    async def clock_skew(self) -> ClockSkew:
        """As in the port."""
        return await self._store.clock_skew()

    async def close(self) -> None:
        """As in the port."""
        await self._store.close()


class _PacedReader:
    """A GET whose bytes are paid for once they are there.

    The gate hears of its end, not of its beginning: a side that answers and then cuts every body short is no side that works.
    """

    def __init__(self, reader: Reader, gate: Gate, key: str) -> None:
        self.present = reader.present
        self._reader = reader
        self._gate = gate
        self._key = key
        self._trouble = gate.trouble
        self._told = False

    async def read(self) -> bytes:
        with self._telling():
            data = await self._reader.read()
        await self._gate.pay(len(data))
        return data

    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        got = 0
        with self._telling():
            async for chunk in self._reader.chunks(size_bytes):
                await self._gate.pay(len(chunk))
                got += len(chunk)
                if got >= _SOME_BYTES:
                    self._came()  # not only at the end: others may wait for this word
                yield chunk

    async def close(self) -> None:
        await self._reader.close()
        if not self._told and self._trouble == self._gate.trouble:
            self._gate.succeeded()  # as far as it was wanted; of what came after its head it says nothing
        self._told = True

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except RetryLater as error:
            if error.reason == "content_mismatch":
                self._came()  # whole: what is wrong with it is that object's matter
            else:
                self._told = True
                self._gate.cut(self._key, error)
            raise
        except asyncio.CancelledError:
            self._told = True
            self._gate.abandoned()
            raise
        self._came()

    def _came(self) -> None:
        if not self._told:
            self._told = True
            self._gate.came()


class _PacedUpload:
    """An upload whose calls are counted and reported too. Parts that another worker may go on with are aborted by none but him.

    What was just begun and has no part yet is of use to nobody (not *shared*): whoever could not record it takes it away.
    """

    def __init__(self, upload: Upload, store: PacedStore, *, shared: bool) -> None:
        self._upload = upload
        self._store = store
        self._shared = shared
        self.upload_id = upload.upload_id

    async def put_part(self, number: int, data: bytes, *, md5: bytes | None = None) -> str:
        self._shared = True
        store, sending = self._store, partial(self._upload.put_part, number, data, md5=md5)
        token = await store.call_to_write(sending, size_bytes=len(data))
        _wrote(len(data))
        return token

    async def complete(self, *, expected_etag: str | None, md5_hex: str) -> WriteResult:
        complete = partial(self._upload.complete, expected_etag=expected_etag, md5_hex=md5_hex)
        return await self._store.call_to_write(complete, quick=False)

    async def abort(self) -> None:
        if self._shared:
            _require_ours()
        await self._upload.abort()


def _require_ours() -> None:
    still_ours = fence.get(None)
    if still_ours is not None:
        still_ours()


def _wrote(size_bytes: int) -> None:
    current = tally.get(None)
    if current is not None:
        current.written_bytes += size_bytes
