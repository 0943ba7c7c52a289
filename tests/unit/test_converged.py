"""As of when a direction is applied: never later than it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.converged import ScanSpan, Watermark, both_us, converged_us


@dataclass(frozen=True)
class _Change:
    """One change of a side: when it happened, when each who told of it did and of which age, when it was applied."""

    at: int
    marks: list[tuple[int, int]]
    applied: int

    def since(self, now: int) -> int | None:
        """The age that the state has at *now*: the earliest of those told; None: nobody told, or it is applied."""
        told = [since for marked, since in self.marks if marked <= now]
        return min(told, default=None) if now < self.applied else None


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


_SCANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=4).map(
    lambda drawn: [ScanSpan(start, start + length) for start, length in drawn]
)


def _feed(now: int, chance: st.DataObject) -> Watermark | None:
    """Of a source that has told at *now* all it promises, or none."""
    since = chance.draw(st.integers(-15, 30) | st.integers(-5, 15) | st.none())
    return Watermark(since, now - chance.draw(st.integers(0, 10))) if since is not None else None


def _changes(
    scans: list[ScanSpan], feed: Watermark | None, times: list[int], now: int, chance: st.DataObject
) -> Iterator[_Change]:
    """Told of by scans, with a time of their own or without, and by the feed, which knows the times of all it promises."""
    for at in sorted(times):
        marks = [_scan_of(at, scans, chance, known=chance.draw(st.booleans()))]
        if feed is not None and (feed.since_us <= at < feed.until_us or chance.draw(st.booleans())):
            marks.append((chance.draw(st.integers(at, max(at, now))), at))
        yield _Change(at, marks, min(marks)[0] + chance.draw(st.integers(0, 5) | st.just(100)))


@settings(max_examples=1000)
@given(_SCANS, st.lists(st.integers(-15, 45), max_size=4), st.data())
def test_no_change_from_before_that_time_is_unapplied(scans: list[ScanSpan], times: list[int], data: st.DataObject) -> None:
    """Scans that overlap, a feed beside them or none, changes with and without a time of their own: whatever is said holds."""
    now = data.draw(st.integers(0, 50))
    feed = _feed(now, data)
    happened = [one for one in _changes(scans, feed, times, now, data) if one.at < now]
    dirty = [since for one in happened if (since := one.since(now)) is not None]
    ended = [one for one in scans if one.finished_us <= now]
    said = converged_us(ended, min(dirty, default=None), feed, clock_slack_us=0)
    if said is not None:
        assert not [one for one in happened if one.at < said and one.applied > now]


def test_a_feed_does_not_date_what_only_a_scan_could_find() -> None:
    """A delete of before the feed's first record has the time of its mark: the scan that marked it says nothing of then."""
    finder, later = ScanSpan(1_000, 1_010), ScanSpan(1_100, 1_110)
    feed = Watermark(900, 5_000)
    assert converged_us([finder], 1_009, feed, clock_slack_us=0) is None
    assert converged_us([ScanSpan(500, 510), finder], 1_009, feed, clock_slack_us=0) == 500
    assert converged_us([finder, later], 1_111, feed, clock_slack_us=0) == 1_111


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
    assert converged_us([scan], 30, Watermark(10, 50)) is None
    assert converged_us([scan], 30, Watermark(10, 50), clock_slack_us=9) == 30
    assert converged_us([scan], 30) is None
    assert converged_us([scan], 30, clock_slack_us=9) == 10
    assert both_us([10, None]) is None
    assert both_us([10, 7]) == 7
