"""Predicates that run before a write, and the named states they lead to (design 4.5). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from federation.model import ECHO_SLACK_US, Base, ETagKind, Hint, Present, Side, StampOrigin

SIDE_EMPTIED = "side_emptied"
"""Halt: a whole listing of one side is empty while the base knows objects there."""

PAIR_OPTIONS_CHANGED = "pair_options_changed"
"""Halt: the settings now name another place, or map names otherwise, than the base was made under."""

BUCKET_SWAPPED = "bucket_swapped"
"""Halt: a side is not the container or bucket that the pair's records are of."""

MAY_BE_EMPTY = "may_be_empty:"
"""Note, by side: a person looked; it may be empty until a whole scan finds something there; its deletes go through the budget."""

MASS_DELETE = "mass_delete:"
"""Note, by the side where objects are gone: a scan found more of that than the delete budget allows, so all of it is held."""

SELF_LIFTING_HALTS = frozenset({"credentials_refused"})
"""Halts that end when the cause is seen to be gone; every other waits for a person."""

DELETE_FLOOR = 25
"""Deletes always allowed per window, so that a small pair is not held up by its share."""


def delete_limit(objects: int, *, count: int, share: float) -> int:
    """Deletes allowed in one window: *count*, and no more than *share* of the known *objects* beyond a small floor."""
    return min(count, max(DELETE_FLOOR, int(objects * share)))


def content_name(md5: str | None, size_bytes: int) -> str:
    """What two objects of one content share; empty where that is not known, or says nothing because there is no content."""
    return f"{md5}:{size_bytes}" if md5 is not None and size_bytes else ""


def tally_text(deletes: int, renames: int) -> str:
    """Both numbers: how many deletes, and how many of them are halves of renames."""
    plural = "" if deletes == 1 else "s"
    return f"{deletes:,} delete{plural}" + (f", {renames:,} of them renames" if renames else "")


def changed_options(recorded: Mapping[str, str], current: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the options in which *current* differs from what the pair's base was made under."""
    return tuple(sorted(name for name in current if recorded.get(name, current[name]) != current[name]))


def side_emptied(listed: int, known: int) -> bool:
    """Whether a complete listing of a side with *known* agreed objects came back empty."""
    return listed == 0 and known > 0


def vouched(present: Present, hint: Hint) -> bool:
    """Whether an S3 event names exactly this version: then it was written in one atomic step."""
    return any(
        entry.etag == present.version.etag
        and entry.at is not None
        and entry.at.origin in (StampOrigin.EVENT, StampOrigin.CHANGE_FEED)
        for entry in hint.vast
    )


def content_in_doubt(present: Present, base: Base | None, hint: Hint, *, now_us: int, slack_us: int = ECHO_SLACK_US) -> bool:
    """Whether a VAST version that has the agreed ETag may hold other content all the same.

    Some servers keep an S3-written object's ETag when the file below it is overwritten in place. Size tells, and a time that is
    later by more than *slack_us* than what we know while not even the metadata changed; an S3 event that names the ETag says
    that it is new.
    """
    if base is None or not base.live or present.version.etag != base.vast_etag or vouched(present, hint):
        return False
    if present.version.size_bytes != base.size_bytes:
        return True
    if present.version.etag_kind is ETagKind.FILE_SIDE and present.version.modified.at_us > now_us:
        # A time that is still to come (*now_us* is VAST's clock) is no write's, which would have set its own; the ETag is made of
        # the file's metadata (facts/vast.md 3 ETag). Else each scan would read the file anew until then.
        return False
    untouched = present.metadata_digest == base.metadata_digest
    return untouched and base.vast_as_of_us > 0 and present.version.modified.at_us > base.vast_as_of_us + slack_us


def quiet_until_us(present: Present, hint: Hint, *, quiet_us: int, now_us: int) -> int:
    """Earliest time, on VAST's clock, at which this VAST version may be read; 0 when it may be read now.

    A write over NFS or SMB has no close that an S3 reader could see (facts/vast.md 4), so a version that no event vouches for
    must have been unchanged for *quiet_us*. A file may say any time: from one that is still to come (*now_us* is VAST's clock)
    nothing follows, and it counts since a scan marked this very ETag (``reconciler.drift.changes`` tells it as changed then).
    """
    if vouched(present, hint):
        return 0
    modified = present.version.modified
    if modified.at_us <= now_us:
        return modified.at_us + modified.precision_us + quiet_us
    etag = present.version.etag
    seen = [one.at.at_us for one in hint.vast if one.etag == etag and one.at is not None and one.at.at_us <= now_us]
    return max(seen, default=now_us) + quiet_us


def changed_side(hint: Hint) -> Side | None:
    """The only side the hint speaks of; None when it speaks of both or of none."""
    if bool(hint.blob) == bool(hint.vast):
        return None
    return Side.BLOB if hint.blob else Side.VAST
