"""Packed forms of what Redis holds (design 5). Pure.

Redis keeps a hash in its compact encoding while no value is longer than 64 bytes. The record of an ordinary object is not; a
longer one (an object uploaded in parts, or written over NFS: its VAST ETag is not its content's hash) is kept in two fields, the
second under the digest and a plus sign::

    byte    version << 4 | flags (1 deleted, 2 lossy, 4 content hash is the VAST ETag, 8 has a content hash)
    field   Blob ETag, VAST ETag: length byte, packed ETag (below); Lua compares these without decoding the rest
    6 bytes time as of which the VAST version is known, milliseconds, rounded down
    7 bytes logical write time, microseconds
    1 byte  precision (2 bits: 1 us, 1 ms, 1 s, other) and origin (3 bits) of that time
    field   metadata digest
    16      content hash, if flagged and not equal to the VAST ETag
    varint  size in bytes
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from typing import overload

import msgspec

from federation.errors import UsageError
from federation.model import SECOND_US, Base, Change, Hint, HintEntry, Side, Source, Stamp, StampOrigin

RECORD_VERSION = 1
_LATEST_US = 2**56 - 1
"""In the year 4253: what is written later counts as written then."""
_DELETED, _LOSSY, _HASH_IS_ETAG, _HAS_HASH = 1, 2, 4, 8
_PRECISIONS_US = (1, 1_000, SECOND_US)
_ORIGINS = tuple(StampOrigin)
_SOURCES = tuple(Source)
_ORIGIN_AT = {origin: at for at, origin in enumerate(_ORIGINS)}
_SOURCE_BITS = {source: 1 << at for at, source in enumerate(_SOURCES)}
_MSGPACK = msgspec.msgpack.Encoder()
_AZURE = re.compile(r"0x[0-9A-F]{1,16}\Z")
_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_MULTIPART = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,4})\Z")
_LONGEST_FIELD = 0xFF
_MORE = 0x80
"""Continuation bit of a varint."""
HEAD_BYTES = 64
"""How much of a base record its first field holds (the scripts know it too)."""
_RAW, _AZURE_TAG, _MD5_TAG, _MULTIPART_TAG = 0, 1, 2, 3


def key_digest(key: str) -> bytes:
    """Name of a key inside the base hashes: 16 bytes."""
    return blake2b(key.encode(), digest_size=16).digest()


# ------------------------------------------------------------------------------------------------------------------ ETags


def pack_etag(etag: str) -> bytes:
    """A tag byte and the shortest exact form; any string survives."""
    if not etag:
        return b""
    if _AZURE.match(etag) and not etag.startswith("0x0"):
        digits = etag[2:]
        return bytes([_AZURE_TAG]) + int(digits, 16).to_bytes(8, "big").lstrip(b"\0")
    if _MD5.match(etag):
        return bytes([_MD5_TAG]) + bytes.fromhex(etag)
    parts = _MULTIPART.match(etag)
    if parts:
        return bytes([_MULTIPART_TAG]) + bytes.fromhex(parts[1]) + int(parts[2]).to_bytes(3, "big")
    return bytes([_RAW]) + etag.encode()


def unpack_etag(packed: bytes) -> str:
    """The exact string that was packed. Raises ValueError on an unknown tag."""
    if not packed:
        return ""
    tag = packed[0]
    if tag == _MD5_TAG:
        return packed[1:].hex()
    if tag == _AZURE_TAG:
        return "0x" + packed[1:].hex().upper().lstrip("0")
    if tag == _MULTIPART_TAG:
        return f"{packed[1:17].hex()}-{int.from_bytes(packed[17:], 'big')}"
    if tag == _RAW:
        return packed[1:].decode()
    raise ValueError(f"unknown ETag form {tag}")


# ------------------------------------------------------------------------------------------------------------------- base


def pack_base(base: Base) -> bytes:
    """The record of *base*. Times are kept to the microsecond, ``vast_as_of_us`` to the millisecond before."""
    vast = pack_etag(base.vast_etag)
    flags = (_DELETED if base.deleted else 0) | (_LOSSY if base.lossy else 0)
    content = b""
    if base.md5 is not None:
        same = base.md5 == base.vast_etag
        flags |= _HAS_HASH | (_HASH_IS_ETAG if same else 0)
        content = b"" if same else bytes.fromhex(base.md5)
    return b"".join(
        (
            bytes([RECORD_VERSION << 4 | flags]),
            _field(pack_etag(base.blob_etag)),
            _field(vast),
            (base.vast_as_of_us // 1_000).to_bytes(6, "big"),  # rounded down: it is a lower bound
            min(max(0, base.written.at_us), _LATEST_US).to_bytes(7, "big"),  # a file may say any time
            _stamp_byte(base.written),
            _field(base.metadata_digest),
            content,
            _varint(base.size_bytes),
        )
    )


def split_record(record: bytes) -> tuple[bytes, bytes]:
    """What the two fields of a record hold; the second is empty for most."""
    return record[:HEAD_BYTES], record[HEAD_BYTES:]


def unpack_base(record: bytes) -> Base:
    """The base of *record*.

    Raises:
        UsageError: the record was written by a newer program, or is damaged; the text says what to do.
    """
    if not record or record[0] >> 4 != RECORD_VERSION:
        raise UsageError(
            "A base record in Redis has an unknown version: a newer fedplane wrote it. Use that version, or empty the state.",
            reason="record_version",
        )
    try:
        return _unpack_base(record)
    except (IndexError, ValueError) as error:
        raise UsageError(
            f"A base record in Redis is damaged ({error}). Restore Redis, or forget the record (docs/parked.md).",
            reason="record_damaged",
        ) from None


def _unpack_base(record: bytes) -> Base:
    """Called for each key of a scan, so without a call of its own for each field; a record cut short ends where it should not."""
    flags, blob_ends = record[0], 2 + record[1]
    at = blob_ends + 1 + record[blob_ends]
    as_of_ms, written_us = int.from_bytes(record[at : at + 6], "big"), int.from_bytes(record[at + 6 : at + 13], "big")
    digest_at = at + 15
    vast_etag = unpack_etag(record[blob_ends + 1 : at])
    written, at = _stamp(written_us, record[at + 13]), digest_at + record[digest_at - 1]
    digest, md5 = record[digest_at:at], None
    if flags & _HAS_HASH:
        md5 = vast_etag
        if not flags & _HASH_IS_ETAG:
            md5, at = record[at : at + 16].hex(), at + 16
    size, at = _read_varint(record, at)
    if at != len(record):
        raise ValueError("its length is wrong")
    return Base(
        unpack_etag(record[2:blob_ends]),
        vast_etag,
        md5,
        digest,
        written,
        size,
        bool(flags & _DELETED),
        bool(flags & _LOSSY),
        as_of_ms * 1_000,
    )


def agrees(record: bytes, blob_etag: str, vast_etag: str, size_bytes: int, vast_until_us: int) -> bool:
    """Whether *record* is of a live base with these ETags and this size, known of VAST's side as of *vast_until_us* or later.

    The same as asking the decoded base, at a third of the time: most keys of a scan are as agreed. False for a record that cannot
    be decoded; whoever then decodes it is told what is wrong with it.
    """
    try:
        flags, blob_ends = record[0], 2 + record[1]
        if flags & ~(_LOSSY | _HASH_IS_ETAG | _HAS_HASH) != RECORD_VERSION << 4:
            return False
        at = blob_ends + 1 + record[blob_ends]
        if unpack_etag(record[blob_ends + 1 : at]) != vast_etag or unpack_etag(record[2:blob_ends]) != blob_etag:
            return False
        size_at = at + 15 + record[at + 14] + (16 if flags & (_HAS_HASH | _HASH_IS_ETAG) == _HAS_HASH else 0)
        return (
            int.from_bytes(record[at : at + 6], "big") * 1_000 >= vast_until_us
            and _read_varint(record, size_at) == (size_bytes, len(record))
            and record[at + 13] >> 2 < len(_ORIGINS)
        )
    except (IndexError, ValueError):
        return False


UNREADABLE = Base(blob_etag="?", vast_etag="?", written=Stamp(0))
"""Stands for a record that cannot be read: whatever is listed differs from it, and who claims the key finds out."""


class PackedBases(Sequence[Base | None]):
    """Base records as Redis gave them, empty where there is none; each is decoded when it is asked for."""

    def __init__(self, records: Sequence[bytes]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, at: int) -> Base | None: ...
    @overload
    def __getitem__(self, at: slice) -> PackedBases: ...
    def __getitem__(self, at: int | slice) -> Base | PackedBases | None:
        """One base, UNREADABLE for one that is damaged, or some still packed."""
        if isinstance(at, slice):
            return PackedBases(self.records[at])
        record = self.records[at]
        try:
            return unpack_base(record) if record else None
        except UsageError:
            return UNREADABLE


def _field(value: bytes) -> bytes:
    if len(value) > _LONGEST_FIELD:
        raise ValueError(f"a field of {len(value)} bytes does not fit a record")
    return bytes((len(value),)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= _MORE:
        out.append((value & 0x7F) | _MORE)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(record: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = record[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < _MORE:
            return value, at
        shift += 7


def _stamp_byte(stamp: Stamp) -> bytes:
    # A precision that has no code is kept as the next coarser one: never finer than it was.
    return bytes((bisect_left(_PRECISIONS_US, stamp.precision_us) | _ORIGIN_AT[stamp.origin] << 2,))


def _stamp(at_us: int, byte: int) -> Stamp:
    code = byte & 0x03
    precision = _PRECISIONS_US[code] if code < len(_PRECISIONS_US) else 60 * SECOND_US
    return Stamp(at_us, precision, _ORIGINS[byte >> 2])


# ------------------------------------------------------------------------------------------------------------------ hints


def pack_changes(changes: Sequence[tuple[Change, bytes]], buckets: Sequence[int]) -> list[bytes]:
    """Changes with their keys' digests, as ``mark.lua`` takes them; *buckets*: the place (from 1) of each one's base hash."""
    fields: list[tuple[str | int, ...]] = []
    binary: list[bytes] = []
    for (change, digest), bucket in zip(changes, buckets, strict=True):
        at, etag = change.at, change.etag or ""
        packed = pack_etag(etag)
        when = (-1, 0, 0) if at is None else (at.at_us, at.precision_us, _ORIGIN_AT[at.origin])
        side = 0 if change.side is Side.BLOB else 1
        known = (change.key, side, _SOURCE_BITS[change.source], etag, int(change.deleted))
        fields.append((*known, *when, change.not_before_us, bucket, len(packed)))
        binary += (digest, packed)
    return [_MSGPACK.encode(fields), b"".join(binary)]


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    etag: str
    deleted: int
    at_us: int
    precision_us: int
    origin: int
    generation: int

    def entry(self) -> HintEntry:
        at = Stamp(self.at_us, self.precision_us, _ORIGINS[self.origin]) if self.at_us >= 0 else None
        return HintEntry(self.etag or None, bool(self.deleted), at, self.generation)


class _Hint(msgspec.Struct, array_like=True, frozen=True):
    generation: int
    attempts: int
    last_error: str
    sources: int
    blob: list[_Entry]
    vast: list[_Entry]


_HINT = msgspec.msgpack.Decoder(_Hint)


def unpack_hint(key: str, packed: bytes) -> Hint:
    """The hint that the scripts packed."""
    hint = _HINT.decode(packed)
    return Hint(
        key=key,
        generation=hint.generation,
        blob=tuple(entry.entry() for entry in hint.blob),
        vast=tuple(entry.entry() for entry in hint.vast),
        sources=tuple(source for bit, source in enumerate(_SOURCES) if hint.sources >> bit & 1),
        attempts=hint.attempts,
        last_error=hint.last_error,
    )
