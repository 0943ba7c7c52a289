"""Read what a side holds now and complete it with what the hint and the origin stamp prove."""

from __future__ import annotations

from dataclasses import replace

from federation import metadata
from federation.errors import NotPresent
from federation.model import Absent, Base, Hint, OriginStamp, Present, Side, Stamp, StampOrigin, Version
from federation.ports import ObjectStore


def seal(key: str, metadata_digest: bytes) -> str:
    """What binds an origin stamp to this key and this metadata.

    Users copy objects with their metadata, and edit metadata keeping what they do not know: either breaks the seal.
    """
    return metadata.key_digest(f"{key}\0{metadata_digest.hex()}")


def complete(present: Present, key: str, side: Side, hint: Hint) -> Present:
    """Fill in the metadata digest, drop a stamp whose seal is broken, and take the time of the event of this version."""
    # Of what the other side cannot hold nothing can be agreed on; without it both sides' digests compare.
    digest = metadata.digest(metadata.shared(present.metadata, side))
    origin = present.origin
    if origin is not None and (origin.key_digest != seal(key, digest) or origin.side is side):
        origin = None
    return replace(present, metadata_digest=digest, origin=origin, written=_told_time(present, side, hint))


def _told_time(present: Present, side: Side, hint: Hint) -> Stamp | None:
    """The time of the event that names the version's ETag; on VAST metadata changes under an ETag, and the event may be older."""
    at = event_time(hint, side, present.version.etag)
    outdated = side is Side.VAST and at is not None and at.at_us < present.version.modified.at_us
    return None if outdated else at


def event_time(hint: Hint, side: Side, etag: str) -> Stamp | None:
    """Time of the latest event that names *etag*; None when only a scan or nobody named it."""
    times = [
        entry.at
        for entry in hint.entries(side)
        if entry.etag == etag and entry.at is not None and entry.at.origin in (StampOrigin.EVENT, StampOrigin.CHANGE_FEED)
    ]
    return max(times, key=lambda at: at.at_us, default=None)


def delete_time(hint: Hint, side: Side) -> Stamp | None:
    """Time of the latest delete event of *side*; None when no event told of one."""
    times = [
        entry.at
        for entry in hint.entries(side)
        if entry.deleted and entry.at is not None and entry.at.origin in (StampOrigin.EVENT, StampOrigin.CHANGE_FEED)
    ]
    return max(times, key=lambda at: at.at_us, default=None)


async def observe(store: ObjectStore, key: str, hint: Hint) -> Present | Absent:
    """One HEAD. Anything but a proved absence raises (rule 3)."""
    try:
        present = await store.head(key)
    except NotPresent:
        return Absent(delete_time(hint, store.side))
    return complete(present, key, store.side, hint)


def as_agreed(base: Base | None, side: Side) -> Present | Absent:
    """What *side* holds if nobody touched it since the base: assumed on the fast path, proved by the conditional write."""
    if base is None or not base.live or not base.etag(side):
        return Absent()
    version = Version(etag=base.etag(side), size_bytes=base.size_bytes, modified=base.written, md5=base.md5)
    return Present(version=version, metadata_digest=base.metadata_digest)


def as_read_before(present: Present, base: Base | None) -> Present:
    """A VAST version under the agreed ETag and with the agreed size, with the hash of the content that was agreed on.

    Where a file was overwritten under its ETag, that content was read, and its ETag is another's hash (docs/adr/0005).
    """
    version = present.version
    if base is None or not base.live or (version.etag, version.size_bytes) != (base.vast_etag, base.size_bytes):
        return present
    if version.md5 is None or base.md5 is None:
        return present
    return replace(present, version=replace(version, md5=base.md5))


def new_stamp(key: str, source: Present, side: Side, written: Stamp) -> OriginStamp:
    """The stamp for our copy of *source*, which a user wrote on *side* at *written*: sealed for what the other side can hold."""
    return OriginStamp(
        side=side,
        etag=source.version.etag,
        written=written,
        md5=source.version.md5,
        key_digest=seal(key, metadata.digest(metadata.shared(metadata.held(source.metadata, side.other), side.other))),
    )
