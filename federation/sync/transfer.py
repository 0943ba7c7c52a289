"""Moving the bytes of one object from one side to the other (design 8).

Small objects go in one request each way. Large ones go in parts, several at once: a ranged GET of exactly one version, a part
with its own checksum, and one conditional commit at the end. What arrived is remembered, so that a transfer that ends early is
gone on with; a version that changes midway can never be mixed with another.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from federation import hashing
from federation.backoff import backoff_seconds
from federation.errors import FederationError, Halt, LeaseLost, NotPresent, Reobserve, RetryLater
from federation.model import Metadata, OriginStamp, Present
from federation.ports import ObjectStore, Reader, Upload, WriteResult
from federation.sync.budget import ByteBudget, Room, flow
from federation.sync.bulk import BulkLane
from federation.sync.confirm import confirmed_by
from federation.sync.journal import Journal, fingerprint, let_go
from federation.sync.original import AGAIN_SECONDS, Original, still_the_same
from federation.sync.parts import PartPlan, plan_parts
from federation.sync.reading import PIECE_BYTES, read_all, waited_out, whole_pieces
from federation.telemetry import logger

if TYPE_CHECKING:
    from _hashlib import HASH
    from collections.abc import AsyncIterator

    from federation.progress import TransferRecord

_T = TypeVar("_T")
_UNREAD_BYTES = 1536 * 1024
"""More than a connection takes in of a body that nobody reads yet: up to 1.2 MiB over TLS (``stores.lane``)."""
_PATIENCE = 6
"""Times a part's step is repeated, about a minute and a half in all without a Retry-After; then the key waits its turn anew."""
_LONGEST_PATIENCE_SECONDS = 600.0
"""The same while a gate lets nothing through: its room in memory is not kept for ever."""
_DAMAGED = frozenset({"checksum_mismatch", "foreign_blocks"})
"""Faults after which no part that was sent is believed. After a damaged reading they are: the next attempt reads everything
again, compares each part with what was sent, and commits only when the whole is what the source holds."""
_NOT_DONE = frozenset({"throttled", "paced"})
"""Refusals of a commit that surely changed nothing. After others the next attempt looks first at what is there."""
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


@dataclass(frozen=True, slots=True)
class Content:
    """A whole small body and its MD5 in hexadecimal."""

    data: bytes
    md5: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where it goes, and what is written beside the content. ``expected_etag``: the version it replaces; None: none is there."""

    store: ObjectStore
    key: str
    metadata: Metadata
    stamp: OriginStamp | None
    expected_etag: str | None


@dataclass(slots=True)
class _Passage:
    """One large transfer at work: where it comes from and goes to, and what of it was there before (parts by number)."""

    original: Original
    upload: Upload
    plan: PartPlan
    done: dict[int, str]
    journal: Journal | None
    target: Target
    resumed: bool = False
    confirming: bool = False
    """All was sent, and it is asked whether it may be committed."""


class Transfer:
    """Copies objects within one process-wide byte budget."""

    def __init__(self, limits: TransferLimits, budget: ByteBudget, bulk: BulkLane | None = None) -> None:
        self.limits = limits
        self.budget = budget
        self._bulk = bulk
        self._guess_bytes = 0

    def is_small(self, size_bytes: int) -> bool:
        """Whether the object moves in one request."""
        return size_bytes <= self.limits.small_object_bytes

    async def room_to_read(self, size_bytes: int = 0) -> Room:
        """Memory for a small object, before its GET is opened: *size_bytes* is its size if that is known, or what it was.

        When the GET has told, see ``fits``. The caller closes it.
        """
        wanted = max(size_bytes if self.is_small(size_bytes) else 0, self._guess_bytes, _UNREAD_BYTES)
        return await self.budget.room(min(wanted, self.limits.small_object_bytes), of=flow.get())

    def fits(self, room: Room, size_bytes: int) -> bool:
        """Whether *room* holds an object of that size now, if it is a small one; it grows into what is free.

        Where one did not fit, more is asked for at once for those that come next: each would be opened in vain.
        """
        if not self.is_small(size_bytes):
            return True  # of which only the head is read here
        fits = room.fit(size_bytes)
        self._guess_bytes = self._guess_bytes * 7 // 8 if fits else size_bytes
        return fits

    async def read_small(self, original: Original, reader: Reader | None = None) -> Content:
        """The whole body, that *reader* may have begun to read, checked against its announced size and MD5.

        Where no MD5 is announced another reading may be needed (docs/adr/0018).
        """
        size_bytes = original.present.version.size_bytes
        if reader is not None and not original.checked_bytes:
            data = await read_all(original.extent(), reader)
        else:
            if reader is not None:
                await reader.close()
            data = await original.read(0, size_bytes)
        content = Content(data, (await hashing.md5(data)).hex())
        self.check_content(original.present, len(data), content.md5)
        await original.compare(0, data)
        return content

    def check_content(self, present: Present, size_bytes: int, md5: str) -> None:
        """Raise RetryLater when what was read is not what the side says it holds: a damaged answer is never passed on.

        However often it comes the same: what damages every answer alike would be believed (docs/adr/0005).
        """
        version = present.version
        if size_bytes == version.size_bytes and version.md5 in (None, md5):
            return
        text = f"{size_bytes} bytes with the MD5 {md5} were read where {version.size_bytes} with {version.md5} were announced"
        raise RetryLater(text, reason="content_mismatch", after_seconds=AGAIN_SECONDS)

    async def send_large(
        self,
        original: Original,
        target: Target,
        *,
        journal: Journal | None = None,
        unchanged: Callable[[], Awaitable[None]] | None = None,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> Copied:
        """Send *original* in parts to *target* and commit conditionally.

        *unchanged* is asked once all was read, *confirm* right before each commit (``confirmed_by``); both may still say no. With
        a *journal*, a transfer that ends early, by a fault or with the process, leaves its parts to the next attempt. Raises as
        ``Upload.complete``, ``Reader``, *unchanged*, *confirm* and ``plan_parts``, and RetryLater (bulk_busy).
        """
        size_bytes = original.present.version.size_bytes
        memory_bytes = self.budget.bulk_total
        plan = plan_parts(size_bytes, self.limits.part_bytes, target.store.capabilities, memory_bytes=memory_bytes)
        async with self._lane():
            passage = await self._begin(original, target, plan, journal)
            try:
                md5 = await self._send_parts(passage)
                self.check_content(original.present, size_bytes, md5)
                if unchanged is not None:
                    await _patiently(passage, unchanged)
                result = await _patiently(passage, partial(_commit, passage, target, md5, confirm), _NOT_DONE)
                await _is_there(target, result, size_bytes)
            except BaseException as error:
                if journal is None or _given_up(error, passage):
                    await _abandon(passage)
                raise
            if journal is not None:
                with suppress(RetryLater):  # the record of a completed upload is cleared by the next sweep
                    await journal.end()
        return Copied(result, md5)

    @asynccontextmanager
    async def _lane(self) -> AsyncIterator[None]:
        if self._bulk is None:
            yield
            return
        async with self._bulk.turn():
            yield

    async def _begin(self, original: Original, target: Target, plan: PartPlan, journal: Journal | None) -> _Passage:
        store, stamp = target.store, target.stamp
        found: TransferRecord | None = None
        print_ = fingerprint(original.present, target.metadata, stamp, plan.part_bytes)
        if journal is not None:
            found = await journal.resumable(store.side, print_)
        if found is not None:
            _log.info("going on with a transfer", key=target.key, parts=len(found.parts), of=plan.count)
            tokens = {number: part.partition(" ")[2] for number, part in found.parts.items()}
            upload = store.resume_upload(target.key, target.metadata, stamp=stamp, upload_id=found.upload_id, parts=tokens)
            return _Passage(original, upload, plan, found.parts, journal, target, resumed=True)
        upload = await store.begin_upload(target.key, target.metadata, stamp=stamp, size_bytes=plan.size_bytes)
        passage = _Passage(original, upload, plan, {}, journal, target)
        try:
            if journal is not None:
                await journal.begun(store.side, upload.upload_id, print_)
        except BaseException:
            await _abandon(passage)  # nobody would know that it is ours
            raise
        return passage

    async def _send_parts(self, passage: _Passage) -> str:
        """Read and send all parts, several at once; MD5 of the whole content, which takes them in order."""
        digest = hashlib.md5(usedforsecurity=False)
        lanes = asyncio.Semaphore(self.limits.parallel_parts)
        name = f"{flow.get()}/bulk"
        before: asyncio.Future[None] | None = None
        try:
            async with asyncio.TaskGroup() as parts:
                for part in passage.plan.ranges():
                    await lanes.acquire()
                    # Asked for in order: so the first part that is not through always has its memory, and the rest follow.
                    room = await self.budget.room(part[2], of=name, bulk=True)
                    after: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    task = parts.create_task(_send_part(passage, part, digest, before, after))
                    task.add_done_callback(partial(_make_room, room, lanes))
                    before = after
        except* FederationError as group:
            # One fault speaks for all: the first part that failed cancelled the others.
            raise _first(group) from None
        return digest.hexdigest()

    async def hash_object(self, store: ObjectStore, key: str, present: Present, *, more_hashed: bool = False) -> str:
        """MD5 of exactly the version *present*, by reading it.

        Of a large one no fault that passes costs what was read, nor, if *more_hashed*, what the caller hashed before. Raises
        Reobserve when it is no longer that version, and RetryLater (bulk_busy) for a large one.
        """
        original, still = Original(store, key, present), partial(still_the_same, store, key, present)
        if self.is_small(present.version.size_bytes):
            md5 = await self._hash(original, patient=False)
            await still()
            return md5
        async with self._lane():
            md5 = await self._hash(original, patient=True, from_first=more_hashed)
        await waited_out(still)
        return md5

    async def _hash(self, original: Original, *, patient: bool, from_first: bool = False) -> str:
        digest, held = hashlib.md5(usedforsecurity=False), bytearray()
        async with self.budget.take(2 * PIECE_BYTES, of=flow.get()):
            async with aclosing(whole_pieces(original.extent(), patient=patient, from_first=from_first)) as parts:
                async for piece in parts:
                    held += piece
                    if len(held) >= PIECE_BYTES:
                        await asyncio.to_thread(digest.update, held)
                        held.clear()
            digest.update(held)
        return digest.hexdigest()


async def _send_part(
    passage: _Passage,
    part: tuple[int, int, int],
    digest: HASH,
    before: asyncio.Future[None] | None,
    after: asyncio.Future[None],
) -> None:
    """Read one part, hash it when those before it are, and send it unless it arrived in an earlier attempt."""
    flow.set(f"{flow.get()}/bulk")
    number, start, length = part
    sent_md5 = passage.done.get(number, "").partition(" ")[0]
    data, md5 = await _patiently(passage, partial(_read_part, passage.original, start, length, sent_md5))
    if before is not None:
        await before
    await asyncio.to_thread(digest.update, data)
    after.set_result(None)
    if sent_md5 == md5.hex():
        return
    token = await _patiently(passage, partial(passage.upload.put_part, number, data, md5=md5))
    if passage.journal is not None:
        await _patiently(passage, partial(passage.journal.part, number, md5.hex(), token))


async def _read_part(original: Original, start: int, length: int, sent_md5: str) -> tuple[bytes, bytes]:
    """One part and its MD5. What an earlier attempt sent as *sent_md5* (hexadecimal; empty: nothing) was a reading too."""
    data = await original.read(start, length)
    md5 = await hashing.md5(data)  # out of turn: only the whole takes its bytes in order
    if md5.hex() != sent_md5:
        await original.compare(start, data)
    return data, md5


async def _commit(passage: _Passage, target: Target, md5: str, confirm: Callable[[], Awaitable[None]] | None) -> WriteResult:
    """Asked anew before each attempt whether we may: a throttle may have been waited for."""

    async def asked() -> None:
        if confirm is not None:
            passage.confirming = True
            await confirm()
            passage.confirming = False

    with confirmed_by(asked):
        return await passage.upload.complete(expected_etag=target.expected_etag, md5_hex=md5)


async def _patiently(passage: _Passage, step: Callable[[], Awaitable[_T]], reasons: frozenset[str] | None = None) -> _T:
    """Repeat a step for a while, after faults with one of *reasons* (None: any): a throttle or a cut costs that step, not hours.

    Refusals of the gate are no attempts: while another part tries whether the side is back, this one comes again in a moment.
    """
    attempt, since_seconds = 0, None
    while True:
        try:
            return await step()
        except RetryLater as error:
            changed = reasons is not None and error.reason not in reasons and not passage.confirming
            if passage.journal is None or changed:
                raise
            clock = passage.journal.clock
            since_seconds = since_seconds if since_seconds is not None else clock.monotonic_seconds()
            if attempt >= _PATIENCE or clock.monotonic_seconds() - since_seconds > _LONGEST_PATIENCE_SECONDS:
                raise
            pause = error.after_seconds if error.after_seconds is not None else backoff_seconds(attempt)
            attempt += error.reason != "paced"
            await clock.sleep(pause)


def _make_room(room: Room, lanes: asyncio.Semaphore, part: asyncio.Task[None]) -> None:
    del part
    room.close()
    lanes.release()


async def _is_there(target: Target, result: WriteResult, size_bytes: int) -> None:
    """Look at what was committed. Raises Reobserve when it is not there.

    There are servers that confirm the end of an upload that they no longer hold, with the right ETag, and write nothing.
    """
    try:
        version = (await target.store.head(target.key)).version
    except NotPresent:
        version = None
    if version is None or (version.etag, version.size_bytes) != (result.etag, size_bytes):
        text = "the object that was just completed is not there"
        raise Reobserve(text, reason="precondition", key=target.key, side=target.store.side)


def _given_up(error: BaseException, passage: _Passage) -> bool:
    """Whether nothing that was sent is of use to a later attempt: not so when it was only interrupted."""
    side = passage.target.store.side
    if passage.confirming and (isinstance(error, RetryLater) or (isinstance(error, Reobserve) and error.side is side)):
        return False  # what it would replace cannot be read, or changed: the new decision may be to send the same
    if isinstance(error, RetryLater):
        # Of an upload that it forgot, a server may only say that it failed: begin anew, or it would fail for ever.
        forgotten = passage.resumed and error.reason == "server_error" and error.side in (None, side)
        return error.reason in _DAMAGED or forgotten
    return isinstance(error, Exception) and not isinstance(error, LeaseLost | Halt)  # a halt is lifted, often within seconds


async def _abandon(passage: _Passage) -> None:
    with suppress(FederationError):  # the fault that led here is the one to report; what stays is recorded, and swept
        await let_go(asyncio.shield(passage.upload.abort()), passage.target.store.side, passage.target.key)
        if passage.journal is not None:
            await passage.journal.end()


def _first(group: BaseExceptionGroup[FederationError]) -> FederationError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")
