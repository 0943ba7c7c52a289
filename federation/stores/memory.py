"""The in-memory twin of the stores, with the real ones' semantics and vices. For tests and the simulation; same contract suite.

Vices: Last-Modified in whole seconds, opaque ETags on Blob and content hashes on VAST, conditions that a server ignores,
file-side writes without events, and calls that fail before or after their effect; where VAST's ``etag_is_md5`` is taken away,
ETags that only look like hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count

from federation import keys
from federation import metadata as mapping
from federation.capabilities import Capabilities
from federation.errors import FederationError, Halt, NotPresent, Park, Reobserve, RetryLater
from federation.model import (
    SECOND_US,
    ClockSkew,
    ETagKind,
    ListEntry,
    Metadata,
    OriginStamp,
    Present,
    Side,
    Stamp,
    Tags,
    Version,
    s3_etag_kind,
)
from federation.ports import Clock, Halfway, WriteResult

Hook = Callable[[str, str], Awaitable[None]]
"""Awaited before every call with its name and key, and as "race" between a look and the unconditional write after it."""


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    metadata: Metadata
    stamp: OriginStamp | None
    etag: str
    modified: Stamp
    version_id: str | None = None


@dataclass(slots=True)
class _Fault:
    call: str
    error: FederationError
    after_effect: bool


class MemoryStore:
    """``ports.ObjectStore`` in a dictionary."""

    def __init__(self, side: Side, *, clock: Clock, hook: Hook | None = None, skew_us: int = 0) -> None:
        self.side = side
        self.capabilities = Capabilities(min_part_bytes=1, max_parts=10_000, tags=True, etag_is_md5=side is Side.VAST)
        self.race_windows = 0
        self.missing_container = False
        self.ordered = True
        self.sealed = True
        self.checked_bytes = 0
        self.objects: dict[str, _Object] = {}
        self.versions: dict[tuple[str, str], _Object] = {}
        """Every version written while ``capabilities.versioning``, by key and version id."""
        self.calls: list[tuple[str, str]] = []
        self.map_tags = False
        """Whether tags are part of the metadata."""
        self._clock = clock
        self._hook = hook
        self._skew_us = skew_us
        self._policy = keys.policy_for(side)
        self._faults: list[_Fault] = []
        self.damages = 0
        """Writes of content still to come that arrive damaged."""
        self._serial = count(1)
        self.uploads: dict[str, dict[int, bytes]] = {}
        """Parts by number of each upload that is neither completed nor aborted."""
        self._begun: dict[str, MemoryUpload] = {}
        """By id, with what each was begun with."""

    def fail_next(self, call: str, error: FederationError, *, after_effect: bool = False) -> None:
        """Let the next *call* raise *error*, before its effect or after it (an answer that was lost)."""
        self._faults.append(_Fault(call, error, after_effect))

    def write_file(self, key: str, data: bytes) -> None:
        """A write over NFS: no event, a metadata-derived ETag, user metadata kept (facts/vast.md 3 ETag)."""
        before = self.objects.get(key)
        etag = f"48ed760a74{next(self._serial):022x}"
        metadata = before.metadata if before is not None else Metadata()
        self.objects[key] = _Object(data, metadata, before.stamp if before is not None else None, etag, self._now())

    async def read_tags(self, key: str) -> Tags:
        """A user looks at the tags."""
        return self._get(key).metadata.tags or ()

    async def write_tags(self, key: str, tags: Mapping[str, str]) -> None:
        """A user replaces the tags: no new version, no new time."""
        found = self._get(key)
        self.objects[key] = replace(found, metadata=replace(found.metadata, tags=tuple(sorted(tags.items()))))

    # ----------------------------------------------------------------------------------------------------------- port

    async def check(self) -> None:
        """As in the port."""
        await self._enter("check", "")

    async def probe(self) -> Capabilities:
        """As in the port; nothing to find out."""
        await self._enter("probe", "")
        return self.capabilities

    async def head(self, key: str) -> Present:
        """As in the port."""
        await self._enter("head", key)
        return self._present(self._get(key))

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> MemoryReader:
        """As in the port."""
        await self._enter("open", key)
        found = self._get(key)
        self._require(key, found, if_match, given=if_match is not None)
        end = None if length is None else start + length
        return MemoryReader(self._present(found), found.data[start:end])

    async def open_version(self, key: str, version_id: str, *, start: int = 0, length: int | None = None) -> MemoryReader:
        """As in the port."""
        await self._enter("open_version", key)
        found = self.versions.get((key, version_id))
        if found is None:
            raise NotPresent(f"{key} has no version {version_id}", key=key, side=self.side)
        return MemoryReader(self._present(found), found.data[start : None if length is None else start + length])

    async def put(
        self, key: str, data: bytes, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str | None
    ) -> WriteResult:
        """As in the port."""
        await self._enter("put", key)
        await self._condition(key, expected_etag, honoured=self.capabilities.conditional_put)
        arrived = self._arrived(data)
        result = self._store(key, arrived, metadata, stamp, hashlib.md5(arrived, usedforsecurity=False).hexdigest())
        if arrived is not data:
            raise Park("it arrived damaged", reason="damaged_write", key=key, side=self.side, left_etag=result.etag)
        self._leave("put")
        return result

    async def begin_upload(self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, size_bytes: int) -> MemoryUpload:
        """As in the port."""
        del size_bytes
        await self._enter("begin_upload", key)
        keys.encode(key, self._policy)
        upload = MemoryUpload(self, key, metadata, stamp, f"upload-{next(self._serial)}")
        self.uploads[upload.upload_id] = {}
        self._begun[upload.upload_id] = upload
        return upload

    def resume_upload(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, upload_id: str, parts: Mapping[int, str]
    ) -> MemoryUpload:
        """As in the port."""
        del parts
        # S3 keeps what is said at the beginning, Azure what is said at the end.
        begun = self._begun.get(upload_id) if self.side is Side.VAST else None
        return begun or MemoryUpload(self, key, metadata, stamp, upload_id)

    async def replace_metadata(
        self, key: str, metadata: Metadata, *, stamp: OriginStamp | None, expected_etag: str, halfway: Halfway | None = None
    ) -> WriteResult:
        """As in the port. Two calls more where Blob takes two requests: "set_properties", then "set_metadata"."""
        await self._enter("replace_metadata", key)
        found = self._get(key)
        self._require(key, found, expected_etag)
        if self.side is Side.BLOB:
            found = await self._set_headers(key, found, mapping.to_side(metadata, stamp, self.side), halfway)
        before = self.objects[key]
        result = self._store(key, found.data, metadata, stamp, found.etag)
        after = self.objects[key]
        if metadata.tags is not None and replace(after.metadata, tags=None) == replace(before.metadata, tags=None):
            self.objects[key] = replace(before, metadata=after.metadata)  # tags move neither ETag nor time
            result = WriteResult(before.etag, result.lossy)
        self._leave("replace_metadata")
        return result

    async def delete(self, key: str, *, expected_etag: str) -> None:
        """As in the port."""
        await self._enter("delete", key)
        if key in self.objects:
            await self._condition(key, expected_etag, honoured=self.capabilities.conditional_delete)
            self.objects.pop(key, None)
        self._leave("delete")

    async def copy(self, source_key: str, target_key: str, *, source_etag: str) -> WriteResult:
        """As in the port."""
        await self._enter("copy", source_key)
        source = self._get(source_key)
        self._require(source_key, source, source_etag)
        if target_key in self.objects:
            return WriteResult(self.objects[target_key].etag)
        result = self._store(target_key, source.data, source.metadata, source.stamp, source.etag)
        self._leave("copy")
        return result

    async def list(self, *, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        """As in the port."""
        await self._enter("list", prefix)
        for key in sorted(self.objects, key=str.encode):
            wanted = key.startswith(prefix) and (not start_after or key.encode() > start_after.encode())
            if not wanted or (keys.excluded(key) and not keys.excluded_below(prefix)):
                continue
            found = self.objects.get(key)
            if found is not None:
                version = self._present(found).version
                yield ListEntry(key, version.etag, version.size_bytes, version.modified, version.md5)

    async def holds_any(self) -> bool:
        """As in the port."""
        await self._enter("list", "")
        return not all(map(keys.excluded, self.objects))

    async def clock_skew(self) -> ClockSkew:
        """As in the port; exact."""
        return ClockSkew(self._skew_us)

    async def close(self) -> None:
        """Nothing to release."""

    # --------------------------------------------------------------------------------------------------------- inside

    async def _enter(self, call: str, key: str) -> None:
        self.calls.append((call, key))
        if self._hook is not None:
            await self._hook(call, key)
        for fault in self._faults:
            if fault.call == call and not fault.after_effect:
                self._faults.remove(fault)
                raise fault.error
        if self.missing_container:
            raise Halt(f"the {self.side} container is not there", reason="container_missing", side=self.side)

    def _leave(self, call: str) -> None:
        for fault in self._faults:
            if fault.call == call and fault.after_effect:
                self._faults.remove(fault)
                raise fault.error

    async def _set_headers(self, key: str, found: _Object, stored: mapping.Stored, halfway: Halfway | None) -> _Object:
        """The first of two requests, where it takes two."""
        held = mapping.to_side(found.metadata, found.stamp, self.side)
        if stored.headers == held.headers or stored.user == held.user:
            return found
        half = mapping.halfway(found.metadata, stored)
        if halfway is not None:
            await halfway(half)
        await self._enter("set_properties", key)
        self._require(key, self._get(key), found.etag)
        self._store(key, found.data, half, found.stamp, found.etag)
        found = self._get(key)
        await self._enter("set_metadata", key)
        self._require(key, self._get(key), found.etag)
        return found

    def _arrived(self, data: bytes) -> bytes:
        """*data*, or something else of its length."""
        if not self.damages:
            return data
        self.damages -= 1
        return bytes(byte ^ 1 for byte in data)

    def _get(self, key: str) -> _Object:
        found = self.objects.get(key)
        if found is None:
            raise NotPresent(f"{key} is not there", key=key, side=self.side)
        return found

    def _require(self, key: str, found: _Object | None, etag: str | None, *, given: bool = True) -> None:
        if given and (found.etag if found is not None else None) != etag:
            raise Reobserve(f"{key} is another version", reason="precondition", key=key, side=self.side)

    async def _condition(self, key: str, expected_etag: str | None, *, honoured: bool) -> None:
        """What a conditional write checks; a server that ignores conditions leaves a window after the look."""
        self._require(key, self.objects.get(key), expected_etag)
        if not honoured:
            self.race_windows += 1
            if self._hook is not None:
                await self._hook("race", key)

    def _store(self, key: str, data: bytes, metadata: Metadata, stamp: OriginStamp | None, s3_etag: str) -> WriteResult:
        keys.encode(key, self._policy)
        etag = f"0x8DC{next(self._serial):012X}" if self.side is Side.BLOB else s3_etag
        if self.side is Side.VAST and not self.capabilities.etag_is_md5:
            etag = f"{next(self._serial):032x}"  # looks like a hash, and is none, as under a KMS key
        stored = mapping.to_side(metadata, stamp, self.side)
        held, origin = mapping.from_side(stored.headers, stored.user, self.side)
        version_id = f"v{next(self._serial)}" if self.capabilities.versioning else None
        held = replace(held, tags=stored.tags)
        self.objects[key] = _Object(data, held, origin, etag, self._now(), version_id)
        if version_id is not None:
            self.versions[key, version_id] = self.objects[key]
        return WriteResult(etag, stored.lossy)

    def _now(self) -> Stamp:
        return Stamp((self._clock.now_us() + self._skew_us) // SECOND_US * SECOND_US)

    def _present(self, found: _Object) -> Present:
        kind = s3_etag_kind(found.etag) if self.side is Side.VAST else ETagKind.OPAQUE
        if kind is not ETagKind.FILE_SIDE and not self.capabilities.etag_is_md5:
            kind = ETagKind.OPAQUE
        known = self.side is Side.BLOB or kind is ETagKind.MD5
        md5 = hashlib.md5(found.data, usedforsecurity=False).hexdigest() if known else None
        version = Version(found.etag, len(found.data), found.modified, kind, md5, found.version_id)
        tags = (found.metadata.tags or ()) if self.map_tags else None
        return Present(version, replace(found.metadata, tags=tags), found.stamp)


class MemoryReader:
    """``ports.Reader`` over bytes in hand."""

    def __init__(self, present: Present, data: bytes) -> None:
        self.present = present
        self._data = data

    async def read(self) -> bytes:
        """As in the port."""
        return self._data

    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        """As in the port."""
        for start in range(0, len(self._data), size_bytes):
            yield self._data[start : start + size_bytes]

    async def close(self) -> None:
        """Nothing to release."""


class MemoryUpload:
    """``ports.Upload`` into a dictionary."""

    def __init__(self, store: MemoryStore, key: str, metadata: Metadata, stamp: OriginStamp | None, upload_id: str) -> None:
        self._store = store
        self._key = key
        self._metadata = metadata
        self._stamp = stamp
        self.upload_id = upload_id

    def _parts(self) -> dict[int, bytes]:
        parts = self._store.uploads.get(self.upload_id)
        if parts is None:
            raise Reobserve("the upload is forgotten", reason="precondition", key=self._key, side=self._store.side)
        return parts

    async def put_part(self, number: int, data: bytes, *, md5: bytes | None = None) -> str:
        """As in the port."""
        del md5
        await self._store._enter("put_part", self._key)  # noqa: SLF001 - one unit with MemoryStore
        self._parts()[number] = bytes(data)
        return f"part-{number}"

    async def complete(self, *, expected_etag: str | None, md5_hex: str) -> WriteResult:
        """As in the port."""
        store = self._store
        await store._enter("complete", self._key)  # noqa: SLF001
        await store._condition(self._key, expected_etag, honoured=store.capabilities.conditional_complete)  # noqa: SLF001
        sent = [data for _, data in sorted(self._parts().items())]
        ordered = [store._arrived(sent[0]), *sent[1:]]  # noqa: SLF001
        sums = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in ordered)
        etag = f"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(ordered)}"
        del md5_hex
        result = store._store(self._key, b"".join(ordered), self._metadata, self._stamp, etag)  # noqa: SLF001
        del store.uploads[self.upload_id]
        if ordered[0] is not sent[0]:
            text, side = "the parts arrived damaged", store.side
            raise RetryLater(text, reason="checksum_mismatch", key=self._key, side=side, left_etag=result.etag)
        store._leave("complete")  # noqa: SLF001
        return result

    async def abort(self) -> None:
        """As in the port."""
        await self._store._enter("abort", self._key)  # noqa: SLF001
        self._store.uploads.pop(self.upload_id, None)
