"""Avro object container files, block by block, so that reading can start at any block and every position is exact. Pure.

Framing is ours (Avro 1.8.2, 'Object Container Files'), decoding of the records fastavro's. Codecs: null, which the service
writes, and deflate.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import fastavro

from federation.payloads import Malformed

_MAGIC = b"Obj\x01"
_SYNC_BYTES = 16
_MORE, _LOW_BITS, _GROUP = 0x80, 0x7F, 7
_LONGEST_VARINT = 10
_LARGEST_BLOCK_BYTES = 256 * 1024 * 1024


class Incomplete(Exception):
    """The bytes end before the thing does. ``needed_bytes``: how many there must be from its start; 0: not known."""

    def __init__(self, needed_bytes: int = 0) -> None:
        super().__init__(f"{needed_bytes} bytes needed")
        self.needed_bytes = needed_bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the first block. ``schema`` is fastavro's parsed form."""

    schema: Any
    codec: str
    sync: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Block:
    """One block: *count* records in ``buffer[start:end]``; it begins and the next one begins at these file offsets."""

    offset: int
    count: int
    start: int
    end: int
    next_offset: int


def read_header(buffer: bytes) -> Header:
    """The header at the start of *buffer*. Raises Incomplete, and Malformed when this is no such file."""
    if not _MAGIC.startswith(buffer[: len(_MAGIC)]):
        raise Malformed("not an Avro file")
    if len(buffer) < len(_MAGIC):
        raise Incomplete
    meta, at = _metadata(buffer, len(_MAGIC))
    if len(buffer) < at + _SYNC_BYTES:
        raise Incomplete(at + _SYNC_BYTES)
    codec = meta.get("avro.codec", b"null").decode("ascii", "replace")
    if codec not in ("null", "deflate"):
        raise Malformed("an Avro codec that is neither null nor deflate")
    try:
        schema = fastavro.parse_schema(json.loads(meta["avro.schema"]))
    except (KeyError, ValueError, TypeError, fastavro.schema.SchemaParseException):
        raise Malformed("an Avro file without a readable schema") from None
    return Header(schema, codec, bytes(buffer[at : at + _SYNC_BYTES]), at + _SYNC_BYTES)


def frame(buffer: bytes, offset: int, header: Header) -> tuple[list[Block], int]:
    """The whole blocks of *buffer*, which begins at file offset *offset* with a block.

    Returns them, and how many bytes from the last block's end the next one needs (0: nothing left, or not known).
    Raises Malformed when the first block does not end in the file's sync marker.
    """
    blocks: list[Block] = []
    at = 0
    while at < len(buffer):
        try:
            count, start, end = _extent(buffer, at, header)
        except Incomplete as more:
            return blocks, max(0, more.needed_bytes - at)
        except Malformed:
            if blocks:
                return blocks, 0
            raise
        blocks.append(Block(offset + at, count, start, end, offset + end + _SYNC_BYTES))
        at = end + _SYNC_BYTES
    return blocks, 0


def _extent(buffer: bytes, at: int, header: Header) -> tuple[int, int, int]:
    """Number of records and data of the block at *at*: count, start, end. Raises Incomplete, Malformed."""
    count, start = _varint(buffer, at)
    size, start = _varint(buffer, start)
    if count < 0 or not 0 <= size <= _LARGEST_BLOCK_BYTES:
        raise Malformed("an Avro block of impossible size")
    end = start + size
    if end + _SYNC_BYTES > len(buffer):
        raise Incomplete(end + _SYNC_BYTES)
    if buffer[end : end + _SYNC_BYTES] != header.sync:
        raise Malformed("an Avro block without its sync marker")
    return count, start, end


def decode(buffer: bytes, blocks: Iterable[Block], header: Header) -> list[dict[str, Any]]:
    """All records of *blocks*. Processor bound, about 10 us a record: for a thread. Raises Malformed."""
    records: list[dict[str, Any]] = []
    schema, read = header.schema, fastavro.schemaless_reader
    for block in blocks:
        data = buffer[block.start : block.end]
        try:
            source = io.BytesIO(data if header.codec == "null" else zlib.decompress(data, -zlib.MAX_WBITS))
            # A loop of the interpreter's own: it lets other threads have their turn between two records.
            for _ in range(block.count):
                records.append(read(source, schema, None))  # type: ignore[arg-type]  # noqa: PERF401
        except Exception as error:  # noqa: BLE001 - fastavro raises whatever bytes that are no record make Python raise
            raise Malformed(f"an Avro block cannot be decoded ({type(error).__name__})") from None
    return records


def _metadata(buffer: bytes, at: int) -> tuple[dict[str, bytes], int]:
    found: dict[str, bytes] = {}
    while True:
        count, at = _varint(buffer, at)
        if count == 0:
            return found, at
        if count < 0:  # then the size of the block follows
            count = -count
            _, at = _varint(buffer, at)
        for _ in range(count):
            name, at = _bytes(buffer, at)
            found[name.decode("utf-8", "replace")], at = _bytes(buffer, at)


def _bytes(buffer: bytes, at: int) -> tuple[bytes, int]:
    size, at = _varint(buffer, at)
    if not 0 <= size <= _LARGEST_BLOCK_BYTES:
        raise Malformed("an Avro header of impossible size")
    if at + size > len(buffer):
        raise Incomplete(at + size)
    return bytes(buffer[at : at + size]), at + size


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    """A zig-zag number and the offset behind it. Raises Incomplete, Malformed."""
    value = 0
    for number in range(_LONGEST_VARINT):
        if at + number >= len(buffer):
            raise Incomplete
        byte = buffer[at + number]
        value |= (byte & _LOW_BITS) << (_GROUP * number)
        if not byte & _MORE:
            return (value >> 1) ^ -(value & 1), at + number + 1
    raise Malformed("an Avro number of impossible length")
