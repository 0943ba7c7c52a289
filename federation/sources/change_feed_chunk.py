"""One chunk from a position to its listed end, in pieces: ranged reads, records decoded in a thread, doubles dropped."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from federation.errors import NotPresent, RetryLater
from federation.model import Side
from federation.payloads import Malformed
from federation.sources.change_feed_avro import Block, Header, Incomplete, decode, frame, read_header
from federation.sources.change_feed_index import Chunk, FeedBlobs
from federation.sources.change_feed_position import RECENT_IDS, ChunkPosition

T = TypeVar("T")

Records = list[dict[str, Any]]
HEADER_BYTES = 8 * 1024
"""Enough for the headers seen, 1.5 to 2.7 KB (facts/azure.md 2.6); a longer one costs a second request."""
_HEADERS_KEPT = 1_024
_IDS_KEPT = 65_536
_RAW_KEPT_BYTES = 64 * 1024
_GUID_LIKE = re.compile(r"[0-9A-Za-z-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """How much is read and held at once: about ``lanes * window_bytes`` raw, and ``2 * lanes`` pieces of decoded records."""

    lanes: int = 6
    window_bytes: int = 4 * 1024 * 1024
    piece_records: int = 1_000
    segments_at_once: int = 12


@dataclass(frozen=True, slots=True)
class Piece(Generic[T]):
    """Some records of a chunk, made into *payload*, and the position behind them."""

    chunk: str
    position: ChunkPosition
    payload: T
    records: int
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Damage:
    """A chunk that cannot be read from *offset* to its listed end, which the position passes over."""

    chunk: str
    position: ChunkPosition
    offset: int
    reason: str
    raw: bytes


@dataclass(slots=True)
class Decoder(Generic[T]):
    """Turns blocks into pieces, in a thread of its own, so that the event loop goes on; remembers ids in a bounded window."""

    make: Callable[[Records], T]
    piece_records: int
    ids: set[object] = field(default_factory=set)
    older_ids: set[object] = field(default_factory=set)
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "change-feed"))

    async def pieces(
        self, chunk: Chunk, at: ChunkPosition, buffer: bytes, blocks: Sequence[Block], header: Header
    ) -> list[Piece[T]]:
        """The records of *blocks*, without the first ``at.index``. Raises Malformed."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, self._pieces, chunk, at, buffer, blocks, header)

    def _pieces(self, chunk: Chunk, at: ChunkPosition, buffer: bytes, blocks: Sequence[Block], header: Header) -> list[Piece[T]]:
        records = decode(buffer, blocks, header)
        behind = blocks[-1].next_offset
        made = []
        # Several blocks are together no more than a piece; a large one is cut, and a position may lie inside it.
        step = self.piece_records if len(blocks) == 1 else max(1, len(records))
        for start in range(at.index, len(records), step):
            some = records[start : start + step]
            whole = start + step >= len(records)
            recent = (*at.recent, *(_short_id(one) for one in some[-RECENT_IDS:]))[-RECENT_IDS:]
            offset, index = (behind, 0) if whole else (at.offset, start + step)
            at = replace(at, offset=offset, index=index, recent=recent)
            fresh = self._new(some)
            made.append(Piece(chunk.name, at, self.make(fresh), len(fresh), len(some) - len(fresh)))
        return made

    def _new(self, records: Records) -> Records:
        """Those not seen in the window, which is two halves, so that forgetting costs nothing."""
        fresh, ids, older = [], self.ids, self.older_ids
        for one in records:
            identity = one.get("id")
            if identity and (identity in ids or identity in older):
                continue
            ids.add(identity)
            fresh.append(one)
        if len(ids) > _IDS_KEPT:
            self.ids, self.older_ids = set(), ids
        return fresh


def _short_id(record: dict[str, Any]) -> str:
    """Its id, if it is fit to be kept in a position: ids are GUIDs."""
    identity = record.get("id")
    return identity if isinstance(identity, str) and _GUID_LIKE.fullmatch(identity) else "-"


class ChunkReader(Generic[T]):
    """Reads chunks; headers of open chunks are remembered."""

    def __init__(self, blobs: FeedBlobs, decoder: Decoder[T], limits: ReadLimits) -> None:
        self._blobs = blobs
        self._decoder = decoder
        self._limits = limits
        self._headers: dict[str, Header] = {}

    async def pieces(self, chunk: Chunk, at: ChunkPosition, *, closing: bool) -> AsyncIterator[Piece[T] | Damage]:
        """Everything between *at* and the listed end; a block that is not whole yet is left for later, unless *closing*."""
        offset = at.offset
        buffer = b""
        try:
            header, buffer = await self._begin(chunk, at)
            offset = max(offset, header.size_bytes)
            if not at.offset and offset >= chunk.size_bytes:
                yield Piece(chunk.name, replace(at, offset=offset), self._decoder.make([]), 0)
            at = replace(at, offset=offset)
            while offset < chunk.size_bytes:
                buffer, blocks = await self._fill(chunk, offset, buffer, header)
                for group in self._grouped(blocks):
                    at = replace(at, offset=group[0].offset, index=at.index if group[0].offset == at.offset else 0)
                    for item in await self._decoded(chunk, at, buffer, group, header):
                        at = item.position
                        yield item
                    offset = group[-1].next_offset
                buffer = buffer[blocks[-1].end + len(header.sync) :]
        except Malformed as fault:
            yield self._damage(chunk, at, offset, str(fault), buffer)
        except Incomplete:
            if closing:
                yield self._damage(chunk, at, offset, "the chunk ends inside a block", buffer)

    async def _begin(self, chunk: Chunk, at: ChunkPosition) -> tuple[Header, bytes]:
        """The header, and what was read behind it when reading begins there."""
        kept = self._headers.get(chunk.name)
        if at.offset and kept is not None:
            return kept, b""
        buffer = b""
        wanted = HEADER_BYTES if at.offset else self._limits.window_bytes
        while True:
            buffer += await self._read(chunk, len(buffer), wanted)
            try:
                header = read_header(buffer)
            except Incomplete as more:
                if len(buffer) >= chunk.size_bytes:
                    raise
                wanted = max(more.needed_bytes - len(buffer), HEADER_BYTES)
                continue
            self._headers[chunk.name] = header
            if len(self._headers) > _HEADERS_KEPT:
                del self._headers[next(iter(self._headers))]
            return header, b"" if at.offset else buffer[header.size_bytes :]

    async def _fill(self, chunk: Chunk, offset: int, buffer: bytes, header: Header) -> tuple[bytes, list[Block]]:
        """At least one whole block from *offset* on. Raises Incomplete when the chunk's listed end is inside one."""
        wanted = self._limits.window_bytes
        while True:
            if not buffer:
                buffer = await self._read(chunk, offset, wanted)
            blocks, needed = frame(buffer, offset, header)
            if blocks:
                return buffer, blocks
            have = offset + len(buffer)
            if have >= chunk.size_bytes:
                raise Incomplete(needed)
            buffer += await self._read(chunk, have, max(wanted, needed - len(buffer)))

    async def _read(self, chunk: Chunk, start: int, length: int) -> bytes:
        length = min(length, chunk.size_bytes - start)
        try:
            data = await self._blobs.read(chunk.name, start=start, length=length) if length > 0 else b""
        except NotPresent:
            raise RetryLater(f"change feed: {chunk.name} is gone", reason="bad_feed", side=Side.BLOB) from None
        if length > 0 and not data:
            raise RetryLater(f"change feed: {chunk.name} is shorter than listed", reason="bad_feed", side=Side.BLOB)
        return data

    async def _decoded(
        self, chunk: Chunk, at: ChunkPosition, buffer: bytes, blocks: Sequence[Block], header: Header
    ) -> list[Piece[T] | Damage]:
        """The pieces of *blocks*; of several of which one cannot be decoded, what the others hold and the damage of that one."""
        try:
            return [*await self._decoder.pieces(chunk, at, buffer, blocks, header)]
        except Malformed as fault:
            if len(blocks) == 1:
                block = blocks[0]
                behind = replace(at, offset=block.next_offset, index=0)
                return [Damage(chunk.name, behind, block.offset, str(fault), buffer[block.start : block.end][:_RAW_KEPT_BYTES])]
        found: list[Piece[T] | Damage] = []
        for block in blocks:
            at = replace(at, offset=block.offset, index=at.index if block.offset == at.offset else 0)
            found += await self._decoded(chunk, at, buffer, [block], header)
            at = found[-1].position
        return found

    def _grouped(self, blocks: Sequence[Block]) -> list[list[Block]]:
        """Runs of blocks of together no more records than a piece has, or one larger block."""
        groups: list[list[Block]] = []
        held = 0
        for block in blocks:
            if not groups or held + block.count > self._limits.piece_records:
                groups.append([])
                held = 0
            groups[-1].append(block)
            held += block.count
        return groups

    @staticmethod
    def _damage(chunk: Chunk, at: ChunkPosition, offset: int, reason: str, buffer: bytes) -> Damage:
        behind = ChunkPosition(at.segment_us, chunk.size_bytes)
        return Damage(chunk.name, behind, offset, reason, bytes(buffer[:_RAW_KEPT_BYTES]))
