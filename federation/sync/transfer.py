"""Moving the bytes of one object from one side to the other (design 8).

Small objects go in one request each way. Large ones stream from one GET of one version into parts, and become visible in one
conditional commit; a version that changes midway can therefore never be mixed with another.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from federation.errors import FederationError, Reobserve, RetryLater
from federation.model import ETagKind, Metadata, OriginStamp, Present
from federation.ports import Capabilities, ObjectStore, Reader, Upload, WriteResult
from federation.sync.budget import ByteBudget
from federation.sync.paced_store import tally
from federation.telemetry import logger

_MIB = 1024 * 1024
_REMEMBERED = 1024
_AGAIN_SECONDS = 1.0
_log = logger("fedplane.transfer")


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """Sizes in bytes; see ``settings.TransferSettings``."""

    small_object_bytes: int
    part_bytes: int
    parallel_parts: int


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy left on the destination, and the content hash computed while the bytes passed."""

    result: WriteResult
    md5: str


def part_size_bytes(size_bytes: int, preferred_bytes: int, capabilities: Capabilities) -> int:
    """Bytes a part: *preferred_bytes*, more when the object would need more parts than the side allows, in whole MiB."""
    needed = math.ceil(size_bytes / capabilities.max_parts)
    part = max(preferred_bytes, capabilities.min_part_bytes, needed)
    return math.ceil(part / _MIB) * _MIB


class Transfer:
    """Copies objects within one process-wide byte budget."""

    def __init__(self, limits: TransferLimits, budget: ByteBudget) -> None:
        self.limits = limits
        self.budget = budget
        self._read_otherwise: dict[tuple[str, int, int], str] = {}

    def is_small(self, size_bytes: int) -> bool:
        """Whether the object moves in one request."""
        return size_bytes <= self.limits.small_object_bytes

    async def read_small(self, reader: Reader) -> bytes:
        """The whole body, checked against its announced size and MD5."""
        data = await reader.read()
        _read(len(data))
        self.check_content(reader.present, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())
        return data

    def check_content(self, present: Present, size_bytes: int, md5: str) -> None:
        """Raise RetryLater when what was read is not what the side says it holds: a damaged answer is never passed on.

        A second reading of the same version with the same result is believed: then it is the side's ETag that is wrong, as on
        gateways that keep it when the file below is overwritten in place.
        """
        version = present.version
        if size_bytes == version.size_bytes and version.md5 in (None, md5):
            return
        if size_bytes == version.size_bytes and self._read_otherwise.get(_identity(present)) == md5:
            _log.warning("an ETag is not the hash of its content", etag=version.etag, md5=md5, size_bytes=size_bytes)
            return
        self._remember(present, md5)
        text = "the bytes read do not match the object's size or MD5; reading again"
        raise RetryLater(text, reason="content_mismatch", after_seconds=_AGAIN_SECONDS)

    def _remember(self, present: Present, md5: str) -> None:
        if len(self._read_otherwise) >= _REMEMBERED:
            self._read_otherwise.clear()
        self._read_otherwise[_identity(present)] = md5

    async def send_large(
        self,
        reader: Reader,
        destination: ObjectStore,
        key: str,
        *,
        metadata: Metadata,
        stamp: OriginStamp | None,
        expected_etag: str | None,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> Copied:
        """Stream *reader* into parts on *destination* and commit conditionally, after *confirm*, which may still say no.

        Raises as ``Upload.complete``, ``Reader`` and *confirm*.
        """
        present = reader.present
        size = present.version.size_bytes
        part_bytes = part_size_bytes(size, self.limits.part_bytes, destination.capabilities)
        # One chunk being read, one waiting for a lane, the others being sent.
        async with self.budget.take(part_bytes * (self.limits.parallel_parts + 2)):
            upload = await destination.begin_upload(key, metadata, stamp=stamp, size_bytes=size)
            try:
                md5 = await self._send_parts(reader, upload, part_bytes)
                self.check_content(present, size, md5)
                if confirm is not None:
                    await confirm()
                result = await upload.complete(expected_etag=expected_etag, md5_hex=md5)
            except BaseException:
                await _abort(upload)
                raise
        return Copied(result, md5)

    async def _send_parts(self, reader: Reader, upload: Upload, part_bytes: int) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        lanes = asyncio.Semaphore(self.limits.parallel_parts)
        number = 0
        try:
            async with asyncio.TaskGroup() as parts:
                async for chunk in reader.chunks(part_bytes):
                    number += 1
                    _read(len(chunk))
                    await asyncio.to_thread(digest.update, chunk)
                    await lanes.acquire()
                    parts.create_task(self._send_part(upload, number, chunk, lanes))
        except* FederationError as group:
            # One fault speaks for all: the first part that failed cancelled the others.
            raise _first(group) from None
        return digest.hexdigest()

    @staticmethod
    async def _send_part(upload: Upload, number: int, chunk: bytes, lanes: asyncio.Semaphore) -> None:
        try:
            await upload.put_part(number, chunk)
        finally:
            lanes.release()

    async def hash_object(self, store: ObjectStore, key: str, present: Present) -> str:
        """MD5 of exactly the version *present*, by reading it. Raises Reobserve when it is no longer that version."""
        reader = await store.open(key, if_match=present.version.etag)
        digest = hashlib.md5(usedforsecurity=False)
        try:
            async with self.budget.take(self.limits.part_bytes):
                async for chunk in reader.chunks(self.limits.part_bytes):
                    _read(len(chunk))
                    await asyncio.to_thread(digest.update, chunk)
        finally:
            await reader.close()
        await still_the_same(store, key, present)
        md5 = digest.hexdigest()
        if present.version.md5 not in (None, md5):
            self._remember(present, md5)
        return md5


def _identity(present: Present) -> tuple[str, int, int]:
    version = present.version
    return version.etag, version.modified.at_us, version.size_bytes


async def still_the_same(store: ObjectStore, key: str, present: Present) -> None:
    """Raise Reobserve when a file-side version changed while it was read; S3 writes are atomic and need no second look."""
    if present.version.etag_kind is not ETagKind.FILE_SIDE and not present.version.content_moved:
        return
    if _identity(await store.head(key)) != _identity(present):
        raise Reobserve("the file changed while it was read", reason="changed_while_read", key=key, side=store.side)


async def _abort(upload: Upload) -> None:
    try:
        await asyncio.shield(upload.abort())
    except FederationError:
        # The fault that led here is the one to report; parts left behind are swept by the side's own lifecycle.
        return


def _first(group: BaseExceptionGroup[FederationError]) -> FederationError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")


def _read(size_bytes: int) -> None:
    current = tally.get(None)
    if current is not None:
        current.read_bytes += size_bytes
