"""What is remembered of a large transfer under way, so that it goes on after a crash, or is cleared away (design 8)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import msgspec

from federation.errors import FederationError, Halt, LeaseLost, RetryLater
from federation.model import Metadata, OriginStamp, Present, Side
from federation.ports import Clock, ObjectStore, State
from federation.progress import Lease, TransferRecord
from federation.telemetry import logger

KEPT_US = 6 * 86_400_000_000
"""After this a transfer that nobody went on with is cleared away: Blob keeps uncommitted blocks for a week."""
_NOTES = "upload:"
_log = logger("fedplane.transfer")


def fingerprint(present: Present, metadata: Metadata, stamp: OriginStamp | None, part_bytes: int) -> str:
    """Stands for the version that is read, what is written beside it, and how it is cut: all of it must be as it was.

    But for the stamp's time: it is measured anew with each attempt.
    """
    version = present.version
    # The time at which the same version was written, on the common clock: the skew that corrects it moves by milliseconds with
    # each answer, and an event may tell it better than Last-Modified. S3 keeps the stamp that the upload was begun with: its time
    # is as right, within the doubt that such times have anyhow, and no copy is proved by it.
    sealed = (stamp.side, stamp.etag, stamp.md5, stamp.key_digest) if stamp is not None else None
    told = repr((version.etag, version.modified.at_us, version.size_bytes, part_bytes, metadata, sealed))
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


class Journal(Protocol):
    """The record of one transfer. Its methods raise LeaseLost and RetryLater."""

    @property
    def clock(self) -> Clock:
        """By which its parts wait."""
        ...

    async def resumable(self, side: Side, print_: str) -> TransferRecord | None:
        """What an earlier process left of this very transfer."""
        ...

    async def begun(self, side: Side, upload_id: str, print_: str) -> None:
        """Before the first part is sent: from now on the upload is known to be ours."""
        ...

    async def part(self, number: int, md5_hex: str, token: str) -> None:
        """A part arrived."""
        ...

    async def end(self) -> None:
        """It was completed or given up."""
        ...


@dataclass(frozen=True, slots=True)
class KeyJournal:
    """``Journal`` of one key's transfer, written under the lease of its shard."""

    state: State
    lease: Lease
    key: str
    stores: Mapping[Side, ObjectStore]
    clock: Clock

    async def resumable(self, side: Side, print_: str) -> TransferRecord | None:
        """As in the protocol; what was left of another one is cleared away. Raises as ``clear``."""
        found = await self.state.transfer(self.key)
        if found is None or (found.side is side and found.fingerprint == print_):
            return found
        await clear(self.stores, found)
        await self.end()
        return None

    async def begun(self, side: Side, upload_id: str, print_: str) -> None:
        """As in the protocol."""
        await self.state.begin_transfer(self.lease, TransferRecord(self.key, side, upload_id, print_, self.clock.now_us()))

    async def part(self, number: int, md5_hex: str, token: str) -> None:
        """As in the protocol."""
        await self.state.note_part(self.lease, self.key, number, f"{md5_hex} {token}")

    async def end(self) -> None:
        """As in the protocol."""
        await self.state.end_transfer(self.lease, self.key)


class UploadNotes:
    """``ports.UploadLog`` among the pair's notes: for uploads begun without a lease, or under a name of our own."""

    def __init__(self, state: State, side: Side, clock: Clock) -> None:
        self._state = state
        self._side = side
        self._clock = clock

    async def begun(self, key: str, upload_id: str) -> None:
        """As in the port."""
        record = TransferRecord(key, self._side, upload_id, "", self._clock.now_us())
        await self._state.put_note(self._name(upload_id), msgspec.json.encode(record))

    async def ended(self, upload_id: str) -> None:
        """As in the port."""
        await self._state.put_note(self._name(upload_id), b"")

    def _name(self, upload_id: str) -> str:
        return _NOTES + hashlib.blake2b(f"{self._side} {upload_id}".encode(), digest_size=16).hexdigest()


class NotedJournal:
    """``Journal`` of a transfer that no lease covers, since a person asked for it: known to be ours, but not gone on with."""

    def __init__(self, notes: UploadNotes, key: str, store: ObjectStore, clock: Clock) -> None:
        self.clock = clock
        self._notes = notes
        self._key = key
        self._store = store
        self._upload_id = ""

    async def resumable(self, side: Side, print_: str) -> TransferRecord | None:
        """Nothing ever is."""
        del side, print_
        return None

    async def begun(self, side: Side, upload_id: str, print_: str) -> None:
        """As in the protocol."""
        del side, print_
        self._upload_id = upload_id
        await self._notes.begun(self._key, upload_id)

    async def part(self, number: int, md5_hex: str, token: str) -> None:
        """Not needed: nobody goes on with it."""

    async def end(self) -> None:
        """As in the protocol."""
        if self._upload_id:
            await self._notes.ended(self._upload_id)
        self._upload_id = ""

    async def give_up(self) -> None:
        """Abort what is unfinished; what cannot be is left to the sweep."""
        if self._upload_id:
            await _abort(self._store, self._key, self._upload_id)
        await self.end()


@asynccontextmanager
async def noted(state: State, store: ObjectStore, key: str, clock: Clock) -> AsyncIterator[NotedJournal]:
    """A journal for one transfer to *store*, aborted when the block ends early, by whatever."""
    journal = NotedJournal(UploadNotes(state, store.side, clock), key, store, clock)
    try:
        yield journal
    except BaseException:
        with suppress(FederationError):  # what led here is the one to report
            await asyncio.shield(journal.give_up())
        raise


async def _abort(store: ObjectStore, key: str, upload_id: str) -> None:
    await store.resume_upload(key, Metadata(), stamp=None, upload_id=upload_id, parts={}).abort()


async def clear(stores: Mapping[Side, ObjectStore], record: TransferRecord) -> None:
    """Abort the upload of *record*, or tell that it stays; then the record is of no more use.

    Only what is recorded is touched: uploads that users began are in no record. Raises as ``let_go``.
    """
    await let_go(_abort(stores[record.side], record.key, record.upload_id), record.side, record.key)


async def let_go(aborting: Awaitable[None], side: Side, key: str) -> None:
    """Wait for *aborting*, of an upload, or tell that it stays. Raises RetryLater, Halt and LeaseLost: not now."""
    try:
        await aborting
    except (RetryLater, Halt, LeaseLost):
        raise
    except FederationError as error:  # such as a right that is missing: no later attempt does better
        text = "a stale upload cannot be aborted; it is left to the side's own lifecycle"
        _log.warning(text, side=side, key=key, error=str(error))


async def sweep(state: State, stores: Mapping[Side, ObjectStore], lease: Lease, *, at_work: Sequence[str], now_us: int) -> int:
    """Clear away transfers of one shard that nobody will go on with: of keys that are not dirty any more, or too old; how many.

    With the first shard go the notes of all, which belong to none. Raises LeaseLost, and RetryLater when the state cannot be
    reached. An upload that cannot be aborted now stays for the next sweep.
    """
    working = set(at_work)
    records = [record for record in await state.transfers(lease.shard) if record.key not in working]
    dirty = await state.are_dirty([record.key for record in records])
    cleared = 0
    for record, wanted in zip(records, dirty, strict=True):
        if wanted and now_us - record.begun_us < KEPT_US:
            continue
        if await _cleared(stores, record):
            await state.end_transfer(lease, record.key)
            cleared += 1
    return cleared + (await _sweep_notes(state, stores, now_us) if lease.shard == 0 else 0)


async def _sweep_notes(state: State, stores: Mapping[Side, ObjectStore], now_us: int) -> int:
    """Whoever made them may still be at work, in another process: only age tells."""
    cleared = 0
    for name, said in (await state.notes(_NOTES)).items():
        try:
            record = msgspec.json.decode(said, type=TransferRecord)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _log.warning("the note of an upload cannot be read; it is left to the side's own lifecycle", note=name)
            await state.put_note(name, b"")
            continue
        if now_us - record.begun_us >= KEPT_US and await _cleared(stores, record):
            await state.put_note(name, b"")
            cleared += 1
    return cleared


async def _cleared(stores: Mapping[Side, ObjectStore], record: TransferRecord) -> bool:
    """Whether its record is of no more use. A side that takes nobody's requests (Halt) forgets no upload by that."""
    try:
        await clear(stores, record)
    except (RetryLater, Halt) as error:
        _log.warning("a stale upload could not be aborted yet", side=record.side, key=record.key, error=str(error))
        return False
    return True
