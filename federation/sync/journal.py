"""What is remembered of a large transfer under way, so that it goes on after a crash, or is cleared away (design 8)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from federation.errors import FederationError, RetryLater
from federation.model import Metadata, OriginStamp, Present, Side
from federation.ports import Clock, ObjectStore, State
from federation.progress import Lease, TransferRecord
from federation.telemetry import logger

KEPT_US = 6 * 86_400_000_000
"""After this a transfer that nobody went on with is cleared away: Blob keeps uncommitted blocks for a week."""
_log = logger("fedplane.transfer")


def fingerprint(present: Present, metadata: Metadata, stamp: OriginStamp | None, part_bytes: int) -> str:
    """Stands for the version that is read, what is written beside it, and how it is cut: all of it must be as it was."""
    version = present.version
    told = repr((version.etag, version.modified.at_us, version.size_bytes, part_bytes, metadata, stamp))
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Journal:
    """The record of one key's transfer, written under the lease of its shard. Its methods raise LeaseLost and RetryLater."""

    state: State
    lease: Lease
    key: str
    stores: Mapping[Side, ObjectStore]
    clock: Clock

    async def resumable(self, side: Side, print_: str) -> TransferRecord | None:
        """What an earlier process left of this very transfer; what it left of another one is cleared away."""
        found = await self.state.transfer(self.key)
        if found is None or (found.side is side and found.fingerprint == print_):
            return found
        await clear(self.stores, found)
        await self.end()
        return None

    async def begun(self, side: Side, upload_id: str, print_: str) -> None:
        """Before the first part is sent: from now on the upload is known to be ours."""
        await self.state.begin_transfer(self.lease, TransferRecord(self.key, side, upload_id, print_, self.clock.now_us()))

    async def part(self, number: int, md5_hex: str, token: str) -> None:
        """A part arrived."""
        await self.state.note_part(self.lease, self.key, number, f"{md5_hex} {token}")

    async def end(self) -> None:
        """It was completed or given up."""
        await self.state.end_transfer(self.lease, self.key)


async def clear(stores: Mapping[Side, ObjectStore], record: TransferRecord) -> None:
    """Abort the upload of *record*. Only what is recorded is touched: uploads that users began are in no record."""
    upload = stores[record.side].resume_upload(record.key, Metadata(), stamp=None, upload_id=record.upload_id, parts={})
    await upload.abort()


async def sweep(state: State, stores: Mapping[Side, ObjectStore], lease: Lease, *, at_work: Sequence[str], now_us: int) -> int:
    """Clear away transfers of one shard that nobody will go on with: of keys that are not dirty any more, or too old; how many.

    Raises LeaseLost, and RetryLater when the state cannot be reached. An upload that cannot be aborted now stays for the next
    sweep.
    """
    working = set(at_work)
    records = [record for record in await state.transfers(lease.shard) if record.key not in working]
    dirty = await state.are_dirty([record.key for record in records])
    cleared = 0
    for record, wanted in zip(records, dirty, strict=True):
        if wanted and now_us - record.begun_us < KEPT_US:
            continue
        try:
            await clear(stores, record)
        except RetryLater as error:
            _log.warning("a stale upload could not be aborted yet", side=record.side, error=str(error))
            continue
        except FederationError as error:
            _log.warning("a stale upload was left to the side's own lifecycle", side=record.side, error=str(error))
        await state.end_transfer(lease, record.key)
        cleared += 1
    return cleared
