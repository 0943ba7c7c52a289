"""What a listing row and the base say about each side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from federation.model import Base, Change, ListEntry, Side, Source
from federation.state.records import PackedBases, agrees
from reconciler.merge import Batch, Row


class News(StrEnum):
    """What became of one side since the base, as far as a listing tells."""

    SAME = "same"
    CHANGED = "changed"
    GONE = "gone"
    UNVERIFIED = "unverified"
    """The agreed ETag, but perhaps later than what we know: on VAST metadata may have changed under it (docs/adr/0001)."""


class Drift(StrEnum):
    """Kind of difference, for the report."""

    ONLY_BLOB = "only_on_blob"
    ONLY_VAST = "only_on_vast"
    CHANGED_BLOB = "changed_on_blob"
    CHANGED_VAST = "changed_on_vast"
    CHANGED_BOTH = "changed_on_both"
    DELETED_BLOB = "deleted_on_blob"
    DELETED_VAST = "deleted_on_vast"
    CHANGED_AND_DELETED = "changed_and_deleted"
    NOT_AGREED = "on_both_without_base"
    UNVERIFIED = "to_be_verified"


def news(entry: ListEntry | None, base: Base | None, side: Side) -> News:
    """Compare one listing entry with the base."""
    agreed = base.etag(side) if base is not None and base.live else ""
    if entry is None:
        return News.GONE if agreed else News.SAME
    if not agreed or entry.etag != agreed:
        return News.CHANGED
    if side is Side.VAST and base is not None and _may_be_later(entry, base):
        return News.UNVERIFIED
    return News.SAME


def _may_be_later(entry: ListEntry, base: Base) -> bool:
    # Another size under the agreed ETag: some servers keep the ETag when the file below is overwritten in place.
    return entry.modified.at_us + entry.modified.precision_us - 1 > base.vast_as_of_us or entry.size_bytes != base.size_bytes


def drift(row: Row, base: Base | None) -> Drift | None:
    """The kind of difference; None when the row is as agreed."""
    blob, vast = news(row.blob, base, Side.BLOB), news(row.vast, base, Side.VAST)
    if blob is vast is News.SAME:
        return None
    if base is None or base.deleted:
        return Drift.NOT_AGREED if row.blob and row.vast else Drift.ONLY_BLOB if row.blob else Drift.ONLY_VAST
    if News.GONE in (blob, vast) and News.CHANGED in (blob, vast):
        return Drift.CHANGED_AND_DELETED
    if News.GONE in (blob, vast):
        return Drift.DELETED_BLOB if blob is News.GONE else Drift.DELETED_VAST
    if blob is News.CHANGED:
        return Drift.CHANGED_BOTH if vast is News.CHANGED else Drift.CHANGED_BLOB
    return Drift.CHANGED_VAST if vast is News.CHANGED else Drift.UNVERIFIED


def out_of_step(batch: Batch, bases: Sequence[Base | None]) -> list[int]:
    """Which rows of *batch* ``drift`` has to look at. For all others it would say None; this says so ten times as fast."""
    if isinstance(bases, PackedBases):
        return _out_of_step(batch, bases.records)
    found = []
    for at, (blob, vast, base) in enumerate(zip(batch.blob, batch.vast, bases, strict=True)):
        if (
            base is None
            or blob is None
            or vast is None
            or base.deleted
            or blob.etag != base.blob_etag
            or vast.etag != base.vast_etag
            or vast.size_bytes != base.size_bytes
            or (modified := vast.modified).at_us + modified.precision_us - 1 > base.vast_as_of_us
            or not (blob.etag and vast.etag)
        ):
            found.append(at)
    return found


def _out_of_step(batch: Batch, records: Sequence[bytes]) -> list[int]:
    """The same of records that are not decoded."""
    return [
        at
        for at, (blob, vast, record) in enumerate(zip(batch.blob, batch.vast, records, strict=True))
        if blob is None
        or vast is None
        or not (blob.etag and vast.etag)
        or not agrees(
            record, blob.etag, vast.etag, vast.size_bytes, (modified := vast.modified).at_us + modified.precision_us - 1
        )
    ]


def changes(row: Row, base: Base | None, *, now_us: Mapping[Side, int], young_until_us: int = 0) -> list[Change]:
    """The hints that the row gives, one for each side with news. *young_until_us*: do not look at VAST's version earlier.

    A file may say that it was written in the future; its change is no younger than *now_us* by its side's clock, or status would
    promise too much.
    """
    found = []
    for side in Side:
        entry, what = row.of(side), news(row.of(side), base, side)
        if what is News.GONE:
            found.append(Change(row.key, side, Source.RECONCILER, deleted=True, not_before_us=young_until_us))
        elif what is News.UNVERIFIED:
            found.append(Change(row.key, side, Source.RECONCILER))
        elif what is News.CHANGED and entry is not None:
            at = replace(entry.modified, at_us=min(entry.modified.at_us, now_us[side]))
            found.append(Change(row.key, side, Source.RECONCILER, etag=entry.etag, at=at, not_before_us=young_until_us))
    return found
