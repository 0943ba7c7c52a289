"""What there is to read: the index, segments, their manifests and the chunks of their shards, and what is gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from federation.errors import FederationError, Halt, RetryLater
from federation.model import ListEntry, Side
from federation.payloads import Malformed
from federation.sources.change_feed_layout import (
    INDEX,
    INTERVAL_US,
    SEGMENTS,
    SLACK_US,
    Index,
    Manifest,
    parse_index,
    parse_manifest,
    segment_begin_us,
    segment_prefixes,
)
from federation.sources.change_feed_position import FeedPosition

_CHUNK_SUFFIX = ".avro"
_SHARED_LIST = 3
"""So many shards in one folder of the log are listed together: sparse feeds are bound by requests (facts/azure.md 2.7)."""


class FeedBlobs(Protocol):
    """The container ``$blobchangefeed``, to be read. Raises as ``ports.ObjectStore`` does; names are the container's own."""

    async def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """The bytes ``[start, start+length)`` of a blob, in one request. Raises NotPresent."""
        ...

    def entries(self, prefix: str) -> AsyncIterator[ListEntry]:
        """The blobs whose names begin with *prefix*, ``key`` being the name, in order."""
        ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as the listing shows it: its manifest's name and ETag."""

    begin_us: int
    name: str
    etag: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk as the listing shows it."""

    name: str
    segment_us: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OpenSegment:
    """One segment and what it holds now: the chunks of each shard, in order. ``closing``: nothing is to be added any more."""

    begin_us: int
    finalized: bool
    closing: bool
    shards: tuple[tuple[Chunk, ...], ...]

    @property
    def chunks(self) -> list[Chunk]:
        """Of all shards."""
        return [chunk for shard in self.shards for chunk in shard]


@dataclass(frozen=True, slots=True)
class Survey:
    """What may be read from a position on. ``gone`` says what reading relied on and is missing; empty: nothing is."""

    index: Index
    segments: tuple[Segment, ...]
    gone: str = ""
    gone_segments: frozenset[int] = frozenset()


class FeedIndex:
    """Reads index, manifests and listings; a manifest is read again only when its ETag moved."""

    def __init__(self, blobs: FeedBlobs) -> None:
        self._blobs = blobs
        self._manifests: dict[str, tuple[str, Manifest]] = {}
        self._past_first = False
        """The feed's first segment is known to lie behind the position."""

    async def index(self) -> Index:
        """``meta/segments.json``. Raises RetryLater when it is not there or no such thing: a fault, never an empty feed."""
        try:
            return parse_index(await self._blobs.read(INDEX))
        except (Malformed, FederationError) as error:
            raise _fault(error, INDEX) from None

    async def survey(self, position: FeedPosition, until_us: int | None = None) -> Survey:
        """The segments from *position* on that may be read, in order; given *until_us*, those that may hold records of before."""
        index = await self.index()
        found = await self._listed(position.done_us, index.last_consumable_us)
        known = {segment.begin_us for segment in found}
        wanted = [one for one in found if position.done_us < one.begin_us <= index.last_consumable_us]
        if not wanted and not position.seen and not self._past_first:
            wanted = await self._first_ever(position)
        if until_us is not None:
            wanted = [one for one in wanted if one.begin_us <= until_us + INTERVAL_US + SLACK_US]
        gone = position.segments - known - {one.begin_us for one in wanted}
        lost_anchor = position.seen and position.done_us not in known
        told = "the segment read last, or one not read to its end, is not there any more" if gone or lost_anchor else ""
        return Survey(index, tuple(wanted), told, frozenset(gone))

    async def open(self, segments: Sequence[Segment], last_consumable_us: int) -> list[OpenSegment]:
        """What *segments* hold now."""
        manifests = await asyncio.gather(*(self._manifest(segment) for segment in segments))
        chunks = await self._chunks(path for manifest in manifests for path in manifest.shards)
        return [
            OpenSegment(
                segment.begin_us,
                manifest.finalized,
                manifest.finalized and segment.begin_us + manifest.interval_us + SLACK_US <= last_consumable_us,
                tuple(
                    tuple(Chunk(entry.key, segment.begin_us, entry.size_bytes) for entry in chunks[path])
                    for path in manifest.shards
                ),
            )
            for segment, manifest in zip(segments, manifests, strict=True)
        ]

    def forget(self, before_us: int) -> None:
        """Drop what is kept of segments that are done with."""
        self._manifests = {name: kept for name, kept in self._manifests.items() if (segment_begin_us(name) or 0) > before_us}

    async def _first_ever(self, position: FeedPosition) -> list[Segment]:
        """The index never names the first segment of a feed: finalized, it may be read all the same (facts/azure.md 2.3)."""
        segments = await self._all([SEGMENTS])
        self._past_first = bool(segments) and segments[0].begin_us <= position.done_us
        if not segments or self._past_first:
            return []
        return segments[:1] if (await self._manifest(segments[0])).finalized else []

    async def _listed(self, from_us: int, to_us: int) -> list[Segment]:
        return await self._all([SEGMENTS] if from_us <= 0 < to_us else segment_prefixes(from_us, to_us))

    async def _all(self, prefixes: Iterable[str]) -> list[Segment]:
        found = []
        for prefix in prefixes:
            async for entry in self._blobs.entries(prefix):
                begin_us = segment_begin_us(entry.key)
                # Folder markers are blobs too (facts/azure.md 2.6).
                if begin_us is not None and entry.size_bytes:
                    found.append(Segment(begin_us, entry.key, entry.etag))
        return sorted(found, key=lambda segment: segment.begin_us)

    async def _manifest(self, segment: Segment) -> Manifest:
        kept = self._manifests.get(segment.name)
        if kept is not None and kept[0] == segment.etag:
            return kept[1]
        try:
            manifest = parse_manifest(await self._blobs.read(segment.name), segment.name)
        except (Malformed, FederationError) as error:
            raise _fault(error, segment.name) from None
        self._manifests[segment.name] = segment.etag, manifest
        return manifest

    async def _chunks(self, shards: Iterable[str]) -> dict[str, list[ListEntry]]:
        """The chunks of each shard path, in order; a path may have none yet."""
        found: dict[str, list[ListEntry]] = {path: [] for path in shards}
        folders = Counter(_folder(path) for path in found)
        prefixes = {_folder(path) if folders[_folder(path)] >= _SHARED_LIST else path for path in found}
        for entries in await asyncio.gather(*(self._list(prefix) for prefix in prefixes)):
            for entry in entries:
                path = entry.key[: entry.key.rindex("/") + 1]
                if path in found and entry.key.endswith(_CHUNK_SUFFIX):
                    found[path].append(entry)
        return found

    async def _list(self, prefix: str) -> list[ListEntry]:
        return [entry async for entry in self._blobs.entries(prefix)]


def _folder(path: str) -> str:
    return path[: path.rstrip("/").rindex("/") + 1]


def _fault(error: Malformed | FederationError, name: str) -> FederationError:
    """Whatever keeps us from reading what the listing or the layout promises is to be tried again."""
    if isinstance(error, Halt | RetryLater):
        return error
    return RetryLater(f"change feed: {name}: {error}", reason="bad_feed", side=Side.BLOB)
