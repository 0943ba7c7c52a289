"""The decision: two observations, a base and rules in, one frozen value out (design 4.2).

Pure: standard library only, no clock, no logger, no await. The questions are asked in a fixed order: is a side unknown, are they
equal already, did one side change since the base, did both. Last writer wins is reached only at the last.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto

from federation.model import Absent, Base, ETagKind, Foreign, Observation, Present, Side, Stamp, Unknown
from federation.rules.decision import Action, Decision, Reason, Rules
from federation.rules.precedence import logical_stamp, on_common_clock, precedence
from federation.rules.proof import content_as_agreed, copy_of, same_content
from federation.rules.times import same_file_time


class Since(Enum):
    """What became of one side since the base."""

    SAME = auto()
    METADATA = auto()
    CONTENT = auto()
    GONE = auto()


def since_base(now: Present | Absent, base: Base | None, side: Side) -> Since:
    """Compare one side with the base. Without a live base everything present is CONTENT and everything absent is SAME."""
    if base is None or not base.etag(side):
        # Our own copy of an older version of the peer is no second writer (a crash between write and settle, a lost base).
        return Since.SAME if isinstance(now, Absent) or copy_of(now, side.other) else Since.CONTENT
    if isinstance(now, Absent):
        return Since.GONE
    if now.version.content_moved:
        return Since.CONTENT
    if _as_agreed(now, base, side) or _later_copy(now, base, side):
        return Since.SAME
    return Since.METADATA if _content_held(now, base, side) else Since.CONTENT


def _as_agreed(now: Present, agreed: Base, side: Side) -> bool:
    if now.version.etag != agreed.etag(side):
        return content_as_agreed(now, agreed) and now.metadata_digest == agreed.metadata_digest
    # Only VAST's ETag can stay the same while metadata changes; but tags change no ETag anywhere (facts/azure.md 3.1).
    told = side is Side.VAST or now.metadata.tags is not None
    return not (told and bool(now.metadata_digest) and now.metadata_digest != agreed.metadata_digest)


def _later_copy(now: Present, agreed: Base, side: Side) -> bool:
    # A copy of ours older than the base was put back by somebody (a restored snapshot): that is a user's write.
    if now.origin is None or not copy_of(now, side.other):
        return False
    return now.origin.written.at_us + now.origin.written.precision_us > agreed.written.at_us


def decide(blob: Observation, vast: Observation, base: Base | None, rules: Rules) -> Decision:
    """What to do about one key. Total over all observations; mirrored under swapping the sides (with the tie winner)."""
    if isinstance(blob, Unknown) or isinstance(vast, Unknown):
        return Decision(Action.WAIT, Reason.UNREADABLE)
    if isinstance(blob, Absent):
        if isinstance(vast, Absent):
            return Decision(Action.ADOPT, Reason.BOTH_ABSENT)
        return _one_present(vast, Side.VAST, blob, base, rules)
    if isinstance(vast, Absent):
        return _one_present(blob, Side.BLOB, vast, base, rules)
    return _both_present(blob, vast, base, rules)


# ------------------------------------------------------------------------------------------------------ one side present


def _one_present(here: Present, side: Side, there: Absent, base: Base | None, rules: Rules) -> Decision:
    since = since_base(here, base, side)
    # What this side had let go earlier is gone on the other too: then this is a new object that nobody agreed on (rule 4).
    unagreed = since is Since.CONTENT and base is not None and not base.etag(side)
    if unagreed or since_base(there, base, side.other) is not Since.GONE:
        return _new_here(here, side, since, base, rules)
    # From here on a live base says that both sides held the object: its absence is a delete (rule 4).
    if not rules.mode.writable(side.other):
        return Decision(Action.COPY, Reason.READ_ONLY_ZONE, source=side)
    edited = since is not Since.SAME or _written_again(here, base, side)
    if _unproved(here, base, side):
        return Decision(Action.HASH, Reason.EQUALITY_UNKNOWN, sides=(side,))
    if edited and rules.mode.writable(side):
        # What was written again alike was written now, whatever an older stamp on it says.
        return _edit_against_delete(replace(here, origin=None) if since is Since.SAME else here, side, there, rules)
    preserve = side if edited else None
    return _carry_delete(side, Reason.DELETED, rules, preserve)


def _new_here(here: Present, side: Side, since: Since, base: Base | None, rules: Rules) -> Decision:
    agreed = base is not None and base.live
    if base is not None and base.live and base.etag(side):
        # The other side's absence was agreed to earlier (deletes ignored): nothing moves until this side changes.
        if _unproved(here, base, side):
            return Decision(Action.HASH, Reason.EQUALITY_UNKNOWN, sides=(side,))
        if since is Since.SAME and here.version.etag == base.etag(side):
            return Decision(Action.NOTHING, Reason.DELETE_IGNORED)
        if since is Since.SAME:
            return Decision(Action.KEEP, Reason.DELETE_IGNORED, source=side)
    if not rules.mode.writable(side):
        return _foreign(side, rules)
    reason = Reason.NEW if base is None else Reason.RECREATED
    return Decision(Action.COPY, Reason.CHANGED if agreed else reason, source=side)


def _foreign(side: Side, rules: Rules) -> Decision:
    if rules.foreign is Foreign.KEEP:
        return Decision(Action.KEEP, Reason.FOREIGN_IN_ZONE, source=side)
    if rules.rebuilding:
        return Decision(Action.NOTHING, Reason.FOREIGN_IN_ZONE)
    return Decision(Action.DELETE, Reason.FOREIGN_IN_ZONE, source=side.other, preserve=side)


def _edit_against_delete(here: Present, side: Side, there: Absent, rules: Rules) -> Decision:
    if there.deleted is not None:
        edit, delete = logical_stamp(here, side, rules), on_common_clock(there.deleted, side.other, rules)
        if _winner(edit, delete, side, rules)[0] is side.other and rules.deletes_to(side):
            return Decision(Action.DELETE, Reason.DELETE_BEATS_EDIT, source=side.other, preserve=side)
    return Decision(Action.COPY, Reason.EDIT_BEATS_DELETE, source=side)


def _carry_delete(side: Side, reason: Reason, rules: Rules, preserve: Side | None) -> Decision:
    if not rules.deletes_to(side):
        return Decision(Action.KEEP, Reason.DELETE_IGNORED, source=side)
    return Decision(Action.DELETE, reason, source=side.other, preserve=preserve)


# ---------------------------------------------------------------------------------------------------- both sides present


def _both_present(blob: Present, vast: Present, base: Base | None, rules: Rules) -> Decision:
    # A base in which one side was let go (KEEP) agreed on no content: as good as none once both are present again.
    agreed = base if base is not None and base.live and base.blob_etag and base.vast_etag else None
    blob_since, vast_since = since_base(blob, agreed, Side.BLOB), since_base(vast, agreed, Side.VAST)
    if agreed is not None and _in_step(blob, vast, agreed):
        return Decision(Action.NOTHING, Reason.IN_STEP)
    equal = same_content(blob, vast)
    if (adopted := _adopted(blob, vast, base, rules, equal=equal)) is not None:
        return Decision(Action.ADOPT, adopted)
    if agreed is not None and blob_since is vast_since is Since.SAME:
        settled = _untouched(blob, vast, agreed, rules, equal=equal)
        if settled is not None:
            return settled
    if blob_since is not vast_since and Since.SAME in (blob_since, vast_since):
        side, since = (Side.BLOB, blob_since) if vast_since is Since.SAME else (Side.VAST, vast_since)
        other = vast if side is Side.BLOB else blob
        in_step = agreed is not None and _content_held(other, agreed, side.other)
        return _one_changed(side, rules, metadata_only=bool(equal) or (since is Since.METADATA and in_step))
    if unread := _unread(blob, vast, agreed, equal=equal):
        return Decision(Action.HASH, Reason.EQUALITY_UNKNOWN, sides=unread)
    # Either both are users' versions, or both are our own copies of something older (a base lost twice over).
    return _both_changed(blob, vast, rules, equal=bool(equal), at_stake=blob_since is not Since.SAME)


def _adopted(blob: Present, vast: Present, base: Base | None, rules: Rules, *, equal: bool | None) -> Reason | None:
    """Why both sides count as equal already; None when they do not, or when it is not known."""
    if equal and blob.metadata_digest == vast.metadata_digest:
        return Reason.EQUAL
    by_word = equal is not False and base is None and rules.adopt_by_size_and_time and same_file_time(blob, vast, rules)
    # Metadata stays as it is on either side; but what differs from a copy of ours was written since, and where tags are mapped
    # every look compares the metadata of both.
    left = all(here.origin is None and here.metadata.tags is None for here in (blob, vast))
    if by_word and (left or blob.metadata_digest == vast.metadata_digest):
        return Reason.SIZE_AND_TIME
    return None


def _written_again(now: Present, base: Base | None, side: Side) -> bool:
    """Whether the agreed content was written once more by somebody: to a delete on the other side that is an edit.

    A new ETag says so, but for one that a file gets by a touch; and our own copy of another version is no second writer. A copy
    of the agreed version was recorded under its own ETag: under a new one somebody put its metadata back.
    """
    if base is None or now.version.etag == base.etag(side) or now.version.etag_kind is ETagKind.FILE_SIDE:
        return False
    return not copy_of(now, side.other) or now.origin is None or now.origin.etag == base.etag(side.other)


def _unproved(now: Present, base: Base | None, side: Side) -> bool:
    """Whether a new ETag may stand for the agreed content all the same: an NFS touch must not win over somebody's write."""
    if base is None or base.md5 is None or now.version.md5 is not None:
        return False
    return now.version.etag != base.etag(side) and now.version.size_bytes == base.size_bytes > 0


def _content_held(now: Present, agreed: Base, side: Side) -> bool:
    same_version = now.version.etag == agreed.etag(side) and not now.version.content_moved
    return same_version or content_as_agreed(now, agreed)


def _in_step(blob: Present, vast: Present, agreed: Base) -> bool:
    sides = ((blob, Side.BLOB), (vast, Side.VAST))
    return all(
        here.version.etag == agreed.etag(side) and not here.version.content_moved and _as_agreed(here, agreed, side)
        for here, side in sides
    )


def _untouched(blob: Present, vast: Present, agreed: Base, rules: Rules, *, equal: bool | None) -> Decision | None:
    ahead = [(side, now) for side, now in ((Side.BLOB, blob), (Side.VAST, vast)) if not _as_agreed(now, agreed, side)]
    if not ahead:
        return Decision(Action.ADOPT, Reason.EQUAL)
    if len(ahead) > 1:
        return None
    # This side is our own later copy of what its peer held for a while and then put back: the peer leads, if it may.
    [(side, now)] = ahead
    return _one_changed(side.other, rules, metadata_only=bool(equal) or _content_held(now, agreed, side))


def _one_changed(side: Side, rules: Rules, *, metadata_only: bool) -> Decision:
    action = Action.METADATA if metadata_only else Action.COPY
    if rules.mode.writable(side):
        return Decision(action, Reason.METADATA_CHANGED if metadata_only else Reason.CHANGED, source=side)
    # A write in a read-only zone is undone; what it wrote is kept first, be it only metadata (rule 1).
    return Decision(action, Reason.READ_ONLY_ZONE, source=side.other, preserve=side)


def _unread(blob: Present, vast: Present, agreed: Base | None, *, equal: bool | None) -> tuple[Side, ...]:
    """The sides whose content must be read before two changes are weighed: a touch, or our own copy, is no second writer's."""
    unknown = equal is None or _unproved(blob, agreed, Side.BLOB) or _unproved(vast, agreed, Side.VAST)
    unread = [(side, here) for side, here in ((Side.BLOB, blob), (Side.VAST, vast)) if here.version.md5 is None]
    if not unknown:
        unread = [(side, here) for side, here in unread if not equal and here.origin is not None and here.origin.md5 is not None]
    return tuple(side for side, _ in unread)


def _both_changed(blob: Present, vast: Present, rules: Rules, *, equal: bool, at_stake: bool) -> Decision:
    if rules.mode.writable(Side.BLOB) and rules.mode.writable(Side.VAST):
        winner, reason = precedence(logical_stamp(blob, Side.BLOB, rules), logical_stamp(vast, Side.VAST, rules), rules)
    else:
        winner = Side.BLOB if rules.mode.writable(Side.BLOB) else Side.VAST
        reason = Reason.READ_ONLY_ZONE
    action = Action.METADATA if equal else Action.COPY
    return Decision(action, reason, source=winner, preserve=winner.other if at_stake else None)


def _winner(edit: Stamp, delete: Stamp, edit_side: Side, rules: Rules) -> tuple[Side, Reason]:
    blob, vast = (edit, delete) if edit_side is Side.BLOB else (delete, edit)
    return precedence(blob, vast, rules)
