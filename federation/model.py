"""Frozen values that every layer shares: sides, versions, observations, the base, changes.

Standard library only. Times are integers in microseconds since 1970-01-01 UTC (names end in ``_us``), sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

PRESERVED_PREFIX = ".federation/"
"""Pair-relative prefix of everything the plane keeps for itself; never synchronised (design 4.4)."""

SECOND_US = 1_000_000

ECHO_SLACK_US = SECOND_US // 2
"""How far the event of our own write may lie after the time by which we noted it (clocks, precision); also in ``mark.lua``."""


class Side(StrEnum):
    """One of the two storage systems of a pair."""

    BLOB = "blob"
    VAST = "vast"

    @property
    def other(self) -> Side:
        """The opposite side."""
        return Side.VAST if self is Side.BLOB else Side.BLOB


class Mode(StrEnum):
    """Who may write (design 1)."""

    TWO_WAY = "two_way"
    BLOB_MASTER = "blob_master"
    VAST_MASTER = "vast_master"

    def writable(self, side: Side) -> bool:
        """Whether users' writes on *side* count; on the other kind of side they are preserved and reverted."""
        return self is Mode.TWO_WAY or self.value == f"{side.value}_master"


class Foreign(StrEnum):
    """What becomes of a new object that only a read-only zone holds."""

    KEEP = "keep"
    PRESERVE_AND_REMOVE = "preserve_and_remove"


class StampOrigin(StrEnum):
    """Where a time comes from, best first (design 4.3)."""

    ORIGIN_STAMP = "origin_stamp"
    EVENT = "event"
    CHANGE_FEED = "change_feed"
    LAST_MODIFIED = "last_modified"
    SCAN = "scan"


@dataclass(frozen=True, slots=True)
class Stamp:
    """A time with its precision and its origin."""

    at_us: int
    precision_us: int = SECOND_US
    origin: StampOrigin = StampOrigin.LAST_MODIFIED


UNMEASURED_US = 60 * SECOND_US
"""Doubt about a clock of which no answer has told yet."""


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """A service's clock minus ours, as measured: it lies within ``uncertainty_us`` of ``us``."""

    us: int = 0
    uncertainty_us: int = 0

    @property
    def measured(self) -> bool:
        """Whether any answer has told of that clock yet."""
        return self.uncertainty_us < UNMEASURED_US


class ETagKind(StrEnum):
    """What an ETag says about content (facts/vast.md 3 ETag, facts/azure.md 3.1). Kinds are never compared with each other."""

    OPAQUE = "opaque"
    """Azure, encrypted by a KMS key, or unknown: a change token only."""
    MD5 = "md5"
    """S3 single PUT: MD5 of the content."""
    MULTIPART = "multipart"
    """S3 multipart: MD5 over part MD5s, dash, part count."""
    FILE_SIDE = "file_side"
    """VAST metadata-derived token (prefix 48ed760a74): written over NFS/SMB."""


_HEX = frozenset("0123456789abcdef")
_MD5_HEX_LENGTH = 32
_VAST_FILE_SIDE_PREFIX = "48ed760a74"


def s3_etag_kind(etag: str) -> ETagKind:
    """What an unquoted ETag of an S3 side looks like (facts/vast.md 3 ETag); what it is, ``stores.wire.s3_kind`` tells."""
    lowered = etag.lower()
    if lowered.startswith(_VAST_FILE_SIDE_PREFIX):
        return ETagKind.FILE_SIDE
    digest, dash, parts = lowered.partition("-")
    if len(digest) != _MD5_HEX_LENGTH or not set(digest) <= _HEX:
        return ETagKind.OPAQUE
    if not dash:
        return ETagKind.MD5
    return ETagKind.MULTIPART if parts.isdecimal() else ETagKind.OPAQUE


Tags = tuple[tuple[str, str], ...]
"""Object tags by name, sorted."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What travels beside the content, in the pair's common form (design 9): S3-style user names, decoded values.

    ``user`` is sorted by name and never holds the origin stamp. ``lossy`` tells that the destination could not hold all of it.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    content_disposition: str | None = None
    cache_control: str | None = None
    user: tuple[tuple[str, str], ...] = ()
    tags: Tags | None = None
    """Object tags, sorted; None where they are not mapped (``rules.tags``), so that nothing is done about them."""


@dataclass(frozen=True, slots=True)
class OriginStamp:
    """Says that an object is our copy of a version of the peer (design 5). Proves nothing unless key and own hash still fit."""

    side: Side
    """Side on which the user wrote the version that was copied."""
    etag: str
    written: Stamp
    """When, on the Blob side's clock."""
    md5: str | None
    key_digest: str
    """Seal over the pair-relative key and the metadata that was written with it."""


@dataclass(frozen=True, slots=True)
class Version:
    """Identity of content on one side. ``etag`` is unquoted; ``md5`` is lower-case hex of the content, None when unknown."""

    etag: str
    size_bytes: int
    modified: Stamp
    etag_kind: ETagKind = ETagKind.OPAQUE
    md5: str | None = None
    version_id: str | None = None
    content_moved: bool = False
    """The ETag is the agreed one, and yet the content is seen to be another: a file was written under an ETag that stayed."""


@dataclass(frozen=True, slots=True)
class Present:
    """The side holds this version now. ``origin`` is the stamp found on it, proved or not."""

    version: Version
    metadata: Metadata = field(default_factory=Metadata)
    origin: OriginStamp | None = None
    metadata_digest: bytes = b""
    """``metadata.digest`` of the part of ``metadata`` that the other side can hold too; empty when not computed."""
    written: Stamp | None = None
    """Time of an event whose ETag is this version's, where one is known (sub-second); else None: use ``version.modified``."""


@dataclass(frozen=True, slots=True)
class Absent:
    """The side holds nothing under this key now. ``deleted`` is the time of its delete event, when known."""

    deleted: Stamp | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The side could not be read. Never treated as absent (rule 3)."""

    reason: str


Observation = Present | Absent | Unknown


@dataclass(frozen=True, slots=True)
class Base:
    """The last pair of versions on which both sides agreed; a tombstone when ``deleted`` (both agreed on absence)."""

    blob_etag: str = ""
    vast_etag: str = ""
    md5: str | None = None
    """Content hash both sides agreed on, None when it was never computed."""
    metadata_digest: bytes = b""
    """``metadata.digest`` (8 bytes) of the agreed metadata: of what both sides can hold."""
    written: Stamp = field(default_factory=lambda: Stamp(0))
    size_bytes: int = 0
    deleted: bool = False
    lossy: bool = False
    vast_as_of_us: int = 0
    """VAST's own time as of which this version was seen or written there; 0: not known. An S3 ETag is a content hash: a
    metadata-only change or a rewrite of equal bytes keeps it, so on that side a version is ETag *and* time: a change that may be
    later than this is news although its ETag is the agreed one (facts/vast.md 3)."""

    @property
    def live(self) -> bool:
        """Both sides agreed that the object exists."""
        return not self.deleted

    @property
    def on_both(self) -> bool:
        """Both sides agreed on this object; of a live record that is not so where one side keeps it alone, by rule."""
        return self.live and bool(self.blob_etag) and bool(self.vast_etag)

    def told_by(self, side: Side, at: Stamp | None) -> bool:
        """Whether an event of time *at* that names the agreed ETag can be our own write come back (docs/adr/0001).

        On Blob the ETag alone says so. On VAST the time must allow it, within its precision and a slack for clocks; what is
        wrongly taken for an echo is a metadata-only change right after our own write, which the next scan verifies strictly.
        """
        return side is Side.BLOB or at is None or at.at_us <= self.vast_as_of_us + ECHO_SLACK_US

    def etag(self, side: Side) -> str:
        """The agreed ETag on *side*; empty in a tombstone, and where a delete was left alone by rule."""
        return self.blob_etag if side is Side.BLOB else self.vast_etag


class Source(StrEnum):
    """Who told us of a change."""

    EVENT_GRID = "event_grid"
    CHANGE_FEED = "change_feed"
    VAST_EVENTS = "vast_events"
    RECONCILER = "reconciler"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Trace:
    """Of W3C trace context. ``trace_id``: 32 hexadecimal digits; ``flags``: two, as the sender set them: is it recorded."""

    trace_id: str
    flags: str = "00"


@dataclass(frozen=True, slots=True)
class Change:
    """A hint that *key* (pair-relative) may have changed on *side*. Never more than a hint (rule 2).

    ``etag`` is unquoted, None when the source does not know it. ``at`` is the source's time of the change, None when unknown.
    ``not_before_us`` asks the worker not to look earlier (young file-side writes).
    """

    key: str
    side: Side
    source: Source
    etag: str | None = None
    deleted: bool = False
    at: Stamp | None = None
    not_before_us: int = 0
    trace: Trace | None = field(default=None, compare=False)
    """Of the event that told, where it brought one; not kept in the state."""


@dataclass(frozen=True, slots=True)
class HintEntry:
    """One hinted version of one side. ``etag`` None: changed in an unknown way; ``deleted``: the source says deleted."""

    etag: str | None
    deleted: bool = False
    at: Stamp | None = None
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Hint:
    """Everything known about a dirty key, as claimed."""

    key: str
    generation: int
    blob: tuple[HintEntry, ...] = ()
    vast: tuple[HintEntry, ...] = ()
    sources: tuple[Source, ...] = ()
    attempts: int = 0
    last_error: str = ""

    def entries(self, side: Side) -> tuple[HintEntry, ...]:
        """The hinted versions of *side*, in order of arrival."""
        return self.blob if side is Side.BLOB else self.vast


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One object of a listing, key pair-relative. ``md5`` when the listing proves one (Content-MD5, MD5-kind ETag)."""

    key: str
    etag: str
    size_bytes: int
    modified: Stamp
    md5: str | None = None
