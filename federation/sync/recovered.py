"""What a worker did and did not live to record, told from its intent and from what is there (docs/adr/0002)."""

from __future__ import annotations

from dataclasses import replace

from federation.model import SECOND_US, Absent, Base, ETagKind, Present, Side
from federation.rules.proof import copy_of
from federation.sync.apply import NO_ETAG, of_nothing
from federation.sync.scene import Scene

_LATER_US = 10 * SECOND_US
"""More than clocks and measurements leave open: what VAST dates so much later than our write is another one's."""


def recovered(base: Base | None, intent: Base | None, scene: Scene) -> Base | None:
    """The base a dead worker did not live to record: its intent, if our stamped copy of exactly that version is there.

    Equal content without a stamp is not enough: a user may have written it, and the source may have moved on since. An intent
    over a copy that was recovered so itself names that copy's ETag: if nothing came of it, that copy is still there. One after a
    write that arrived damaged names what that left, whatever its stamp says. A delete's names what was to go.
    """
    if intent is not None and intent.deleted:
        done = _half_written(intent, scene.blob) if intent.metadata_digest else _deleted(intent, scene)
        return done or base
    damaged = _damaged(intent, scene) if intent is not None else None
    if damaged is not None:
        return damaged
    for source in Side:
        there = scene.of(source.other)
        if intent is None or not intent.etag(source) or isinstance(there, Absent) or intent.etag(source).startswith(NO_ETAG):
            continue
        if _by_stamp(there, intent, source):
            done = replace(intent, md5=there.version.md5 or intent.md5)
            return _with_etag(done, source.other, there.version.etag)
        # Without a stamp that holds, only Blob's ETag says that nobody touched it: what was replaced there was half-written.
        ours = there.origin.side is source if there.origin is not None else source is Side.VAST
        if ours and there.version.etag == intent.etag(source.other):
            return _of_copy(there, intent, source)
    return base


def _damaged(intent: Base, scene: Scene) -> Base | None:
    """Our own write, of nothing that the source holds, if what it left is there: so the source is copied over exactly that."""
    for source in Side:
        there = scene.of(source.other)
        if isinstance(there, Absent) or intent.etag(source.other) != of_nothing(there.version.etag):
            continue
        if source is Side.BLOB and there.version.modified.at_us > intent.vast_as_of_us + _LATER_US:
            continue  # on VAST an ETag is a content hash: a user wrote just what the damage left, an empty object for example
        # Later than the source, lest that, where it is a copy of ours itself, passes for one made after this was agreed on.
        written = replace(intent.written, at_us=intent.written.at_us + intent.written.precision_us)
        # Under one ETag of VAST a user may have changed the metadata, but not that under a stamp of ours, sealed with it.
        sealed = source is Side.VAST or (there.origin is not None and there.origin.side is source)
        digest, version = there.metadata_digest if sealed else intent.metadata_digest, there.version
        left = replace(intent, md5=version.md5, size_bytes=version.size_bytes, metadata_digest=digest, written=written)
        return _with_etag(_with_etag(left, source, NO_ETAG), source.other, version.etag)
    return None


def _deleted(intent: Base, scene: Scene) -> Base | None:
    """The tombstone of a delete, if what was to go is gone."""
    carried_out = any(intent.etag(on) and isinstance(scene.of(on), Absent) for on in Side)
    return replace(intent, blob_etag="", vast_etag="") if carried_out else None


def _half_written(intent: Base, blob: Present | Absent) -> Base | None:
    """What was agreed on, as far as *blob* still has it, if it is as between two requests for new metadata, or as before them.

    Its content is the same, its metadata as before but for VAST's headers: whoever set those loses nothing when the rest follows.
    """
    if isinstance(blob, Absent):
        return None
    version = blob.version
    same = version.size_bytes == intent.size_bytes and (version.md5 == intent.md5 is not None or not version.size_bytes)
    between = same and blob.metadata_digest == intent.metadata_digest
    if not between and version.etag != intent.blob_etag:
        return None
    md5 = version.md5 or intent.md5
    return replace(intent, deleted=False, blob_etag=version.etag, metadata_digest=blob.metadata_digest, md5=md5)


def _with_etag(base: Base, side: Side, etag: str) -> Base:
    return replace(base, blob_etag=etag) if side is Side.BLOB else replace(base, vast_etag=etag)


def _of_copy(there: Present, intent: Base, source: Side) -> Base:
    """What was agreed on when our copy *there* was made; of what was half-written, all but the version it was made from."""
    version, stamp = there.version, there.origin
    md5, written, etag = (stamp.md5, stamp.written, stamp.etag) if stamp is not None else (None, intent.written, NO_ETAG)
    digest, size = there.metadata_digest, version.size_bytes
    known = replace(intent, md5=version.md5 or md5, metadata_digest=digest, written=written, size_bytes=size)
    return _with_etag(known, source, etag)


def _by_stamp(there: Present, intent: Base, source: Side) -> bool:
    stamp = there.origin
    if stamp is None or stamp.side is not source or stamp.etag != intent.etag(source):
        return False
    if there.metadata_digest != intent.metadata_digest:
        return False  # under one ETag of VAST metadata changes: that is our copy of before
    # Of a large file no hash was known when the stamp was made: but an intent for this very version stands behind the stamp. Not
    # so where a file may have been written under it, which keeps metadata (facts/vast.md 3).
    version = there.version
    unhashed = stamp.md5 is None and (source is Side.VAST or version.etag_kind in (ETagKind.MULTIPART, ETagKind.OPAQUE))
    return copy_of(there, source) or (unhashed and version.size_bytes == intent.size_bytes)
