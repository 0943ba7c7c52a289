"""As of when a direction is applied: never later than it is."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from reconciler.converged import ScanSpan, Watermark, both_us, converged_us


@dataclass(frozen=True)
class _Change:
    """One change of a side: when it happened, when it was marked by whom, when it was applied."""

    at: int
    marked: int
    since: int
    applied: int


def _scan_of(change_at: int, scans: list[ScanSpan], chance: st.DataObject, *, known: bool) -> tuple[int, int]:
    """When the first of the scans that see the change marked it, each by its end; and which age the state then has."""
    seen = [one for one in scans if one.started_us >= change_at]
    early = [one for one in scans if one.started_us < change_at <= one.finished_us]
    seen += early if chance.draw(st.booleans()) else []
    if not seen:
        return 10**9, 10**9
    first, last = min(one.started_us for one in seen), min(one.finished_us for one in seen)
    marked = chance.draw(st.integers(max(first, change_at), max(last, change_at)))
    return marked, change_at if known else marked


_SCANS = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20)), max_size=5).map(
    lambda drawn: [ScanSpan(start, start + length) for start, length in drawn]
)


@given(_SCANS, st.lists(st.integers(-50, 130), max_size=6), st.data())
def test_no_change_from_before_that_time_is_unapplied(scans: list[ScanSpan], times: list[int], data: st.DataObject) -> None:
    """Scans that overlap, changes with and without a time of their own: whatever is said holds."""
    now = data.draw(st.integers(0, 140))
    changes = []
    for at in sorted(times):
        marked, since = _scan_of(at, scans, data, known=data.draw(st.booleans()))
        changes.append(_Change(at, marked, since, marked + data.draw(st.integers(0, 60))))
    happened = [one for one in changes if one.at < now]
    dirty = [one.since for one in happened if one.marked <= now < one.applied]
    ended = [one for one in scans if one.finished_us <= now]
    said = converged_us(ended, min(dirty, default=None), clock_slack_us=0)
    if said is not None:
        assert not [one for one in happened if one.at < said and one.applied > now]


@given(_SCANS, st.none() | st.integers(0, 140), st.integers(-50, 140), st.integers(0, 140))
def test_a_watermark_only_helps_and_is_bounded_by_what_waits(
    scans: list[ScanSpan], oldest: int | None, since: int, until: int
) -> None:
    """It is never earlier than by scans alone, and never past the watermark, the scans and the oldest change."""
    alone = converged_us(scans, oldest)
    both = converged_us(scans, oldest, Watermark(since, until))
    assert (alone is None) or (both is not None and both >= alone)
    if both is not None:
        assert both <= max([until, *(one.started_us for one in scans)])
        assert oldest is None or both <= oldest


def test_nothing_is_said_without_a_whole_scan() -> None:
    """A feed that began after the only scan does not know what came between, either."""
    scan = ScanSpan(10, 20)
    assert converged_us([], None, Watermark(0, 50)) is None
    assert converged_us([scan], 15, Watermark(12, 50)) is None
    assert converged_us([scan], 30, Watermark(10, 50)) == 30
    assert converged_us([scan], 30) is None
    assert converged_us([scan], 30, clock_slack_us=9) == 10
    assert both_us([10, None]) is None
    assert both_us([10, 7]) == 7
