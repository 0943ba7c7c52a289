"""Last writer wins, exactly (design 4.3). The only place that compares times."""

from __future__ import annotations

from federation.model import Present, Side, Stamp
from federation.rules.decision import Reason, Rules
from federation.rules.proof import proved_copy


def precedence(blob: Stamp | None, vast: Stamp | None, rules: Rules) -> tuple[Side, Reason]:
    """Who wrote last. Total, and the same whatever the order of arrival; both stamps are on one clock (``logical_stamp``).

    1. A known time beats an unknown one. 2. Times further apart than the coarser precision plus the clock uncertainty: the later.
    3. Otherwise the configured tie winner. Precision finer than the coarser of the two is never looked at.

    Not transitive (three times may each lie within the doubt of the next), and need not be: a pair holds two versions of a key at
    a time, each contest ends with one of them on both sides, and only a user's new write starts another (docs/consistency.md).
    """
    if blob is None or vast is None:
        if blob is vast:
            return rules.tie_winner, Reason.TIE
        return (Side.VAST if blob is None else Side.BLOB), Reason.ONLY_KNOWN_TIME
    apart_us = blob.at_us - vast.at_us
    doubt_us = max(blob.precision_us, vast.precision_us) + rules.clock_uncertainty_us + rules.skew_uncertainty_us
    if abs(apart_us) > doubt_us:
        return (Side.BLOB if apart_us > 0 else Side.VAST), Reason.LATER_WRITE
    return rules.tie_winner, Reason.TIE


def logical_stamp(present: Present, side: Side, rules: Rules) -> Stamp:
    """When a user wrote this version, on the Blob side's clock.

    Of our own proved copy: when its user wrote it on the other side, never when we copied it. Else the time of the event that
    names this ETag, else Last-Modified.
    """
    if present.origin is not None and proved_copy(present):
        return present.origin.written  # put on the common clock when the copy was made
    return on_common_clock(present.written or present.version.modified, side, rules)


def on_common_clock(stamp: Stamp, side: Side, rules: Rules) -> Stamp:
    """*stamp* of *side*'s clock, as the Blob side's clock would have shown it."""
    if side is Side.BLOB or not rules.vast_ahead_us:
        return stamp
    return Stamp(stamp.at_us - rules.vast_ahead_us, stamp.precision_us, stamp.origin)
