"""Where in the feed reading stands: per chunk the block and the record in it; finished segments fold into one time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from federation.sources.change_feed_layout import INTERVAL_US, SLACK_US

RECENT_IDS = 4
"""Ids kept with a chunk's position: the doubles seen in real feeds follow each other (facts/azure.md 2.6)."""

_DONE, _FROM, _SEEN, _NEWEST, _AS_OF, _GAP, _CHUNK = "done_us", "from_us", "seen", "newest_us", "as_of_us", "gap_us", "chunk "


@dataclass(frozen=True, slots=True)
class ChunkPosition:
    """Next record of a chunk: number *index* of the block at file offset *offset* (0: the header is still to come)."""

    segment_us: int
    offset: int
    index: int = 0
    recent: tuple[str, ...] = ()
    """Ids of the last records before it."""


@dataclass(frozen=True, slots=True)
class FeedPosition:
    """A position in the whole feed. Frozen; each step returns a new one."""

    done_us: int
    """Segments that begin at or before this are done with."""
    from_us: int = 0
    """Records of before this are not wanted."""
    seen: bool = False
    """Whether ``done_us`` is the begin of a segment that was there: if it is gone, so may be others after it."""
    newest_us: int = 0
    """Time of the newest record handed over."""
    as_of_us: int = 0
    """Every change of before this that the service tells of has been handed over; 0: not known."""
    chunks: Mapping[str, ChunkPosition] = field(default_factory=dict)
    """By name, of the segments after ``done_us``."""
    gap_us: int = 0
    """When something was last found missing, by our clock: what it held is known once a whole scan that began later ended."""

    @property
    def segments(self) -> set[int]:
        """Begins of the segments of which something was read and that are not done."""
        return {chunk.segment_us for chunk in self.chunks.values()}

    def read(self, chunks: Mapping[str, ChunkPosition], newest_us: int = 0) -> FeedPosition:
        """After reading up to *chunks*."""
        return replace(self, chunks={**self.chunks, **chunks}, newest_us=max(self.newest_us, newest_us))

    def folded(self, segment_us: int) -> FeedPosition:
        """Done with all segments up to and including the one that begins at *segment_us*."""
        left = {name: chunk for name, chunk in self.chunks.items() if chunk.segment_us > segment_us}
        return replace(self, done_us=max(self.done_us, segment_us), seen=True, chunks=left)

    def without(self, chunks: frozenset[str], *, unseen: bool) -> FeedPosition:
        """What is gone from the feed is forgotten; *unseen*: the segment at ``done_us`` too."""
        left = {name: chunk for name, chunk in self.chunks.items() if name not in chunks}
        return replace(self, chunks=left, seen=self.seen and not unseen)

    def dump(self) -> dict[str, int]:
        """Flat, for ``progress.Cursor``; a chunk is named with all but its offset: ``chunk SEGMENT INDEX IDS NAME``."""
        flat = {
            _DONE: self.done_us,
            _FROM: self.from_us,
            _SEEN: int(self.seen),
            _NEWEST: self.newest_us,
            _AS_OF: self.as_of_us,
            _GAP: self.gap_us,
        }
        for name, chunk in sorted(self.chunks.items()):
            flat[f"{_CHUNK}{chunk.segment_us} {chunk.index} {','.join(chunk.recent)} {name}"] = chunk.offset
        return flat


def start_at(at_us: int) -> FeedPosition:
    """Before every segment that may hold records of *at_us* or later; 0: the feed's beginning.

    A record may be one segment early, and a segment's time a quarter of an hour off (facts/azure.md 2.2).
    """
    return FeedPosition(done_us=max(0, at_us - INTERVAL_US - SLACK_US - 1), from_us=at_us)


def load(flat: Mapping[str, int]) -> FeedPosition:
    """Inverse of ``FeedPosition.dump``. Raises ValueError when it is no such thing."""
    chunks = {}
    for told, offset in flat.items():
        if told.startswith(_CHUNK):
            segment_us, index, ids, name = told.removeprefix(_CHUNK).split(" ", 3)
            chunks[name] = ChunkPosition(int(segment_us), offset, int(index), tuple(one for one in ids.split(",") if one))
    try:
        numbers = [flat[name] for name in (_DONE, _FROM, _SEEN, _NEWEST, _AS_OF)]
    except KeyError as missing:
        raise ValueError(f"a feed position without {missing}") from None
    return FeedPosition(numbers[0], numbers[1], bool(numbers[2]), numbers[3], numbers[4], chunks, flat.get(_GAP, 0))
