"""As of when is everything that changed on a side applied on the other (design 7)? Pure, and conservative by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CLOCK_SLACK_US = 10_000_000


@dataclass(frozen=True, slots=True)
class ScanSpan:
    """When a whole scan that was completed began and ended. It found every change from before it began."""

    started_us: int
    finished_us: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """A source that tells every change with its time: all those after ``since_us`` and before ``until_us`` are marked."""

    since_us: int
    until_us: int


def converged_us(
    scans: Sequence[ScanSpan],
    oldest_dirty_us: int | None,
    watermark: Watermark | None = None,
    *,
    clock_slack_us: int = CLOCK_SLACK_US,
) -> int | None:
    """The time before which every change of one side is applied on the other; None: not known.

    Save parked and held keys, also while they are tried again: since when theirs wait is not kept.

    Args:
        scans: the whole scans that were completed, in any order.
        oldest_dirty_us: on the same clock, the oldest time among the side's changes not yet applied: the change's own, or any
            time between that and its mark; None when none waits.
        watermark: of a complete source of that side (the change feed), if there is one.
        clock_slack_us: how far apart the clocks of two of our processes may be (one marks, another ends the scan).

    A change that no time is known of (a delete that a scan found) may be far older than its mark. But a scan that ended before
    the mark did not find it, so it is younger than that scan's start. A watermark knows the times, and is bounded by the oldest
    of them alone. What was before the source's first record only a scan can find, and marks it with no time of its own: so it
    needs a scan that began after that record and that ended before the oldest mark.
    """
    if not scans:
        return None
    blind = [one for one in scans if oldest_dirty_us is None or one.finished_us + clock_slack_us < oldest_dirty_us]
    found = [one.started_us for one in blind]
    if watermark is not None and any(one.started_us >= watermark.since_us for one in blind):
        found.append(watermark.until_us if oldest_dirty_us is None else min(watermark.until_us, oldest_dirty_us))
    return max(found, default=None)


def both_us(directions: Sequence[int | None]) -> int | None:
    """As of when both sides are equal: the earliest of the directions; None when one is not known."""
    known = [at for at in directions if at is not None]
    return min(known) if len(known) == len(directions) else None
