"""Last writer wins: one total function over times, their precision and their origin."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.model import OriginStamp, Present, Side, Stamp, StampOrigin, Version
from federation.rules.decision import Reason, Rules
from federation.rules.precedence import logical_stamp, on_common_clock, precedence

SECOND = 1_000_000
T0 = 1_700_000_000 * SECOND
EXACT = Rules(clock_uncertainty_us=0)
HALF = Rules(clock_uncertainty_us=SECOND // 2)


def at(us: int, precision_us: int = 1) -> Stamp:
    """A time that many microseconds after the beginning."""
    return Stamp(T0 + us, precision_us)


@pytest.mark.parametrize(
    ("blob", "vast", "rules", "winner", "reason"),
    [
        (at(2), at(0), EXACT, Side.BLOB, Reason.LATER_WRITE),
        (at(0), at(2), EXACT, Side.VAST, Reason.LATER_WRITE),
        (at(0), at(0), EXACT, Side.BLOB, Reason.TIE),
        # The precision is the width of the doubt: a difference of exactly that much is still a tie.
        (at(0), at(1), EXACT, Side.BLOB, Reason.TIE),
        (at(0, SECOND), at(SECOND, 1), EXACT, Side.BLOB, Reason.TIE),
        (at(0, SECOND), at(SECOND + 1, 1), EXACT, Side.VAST, Reason.LATER_WRITE),
        # The coarser of the two counts, whichever side it is on.
        (at(0, 1), at(SECOND, SECOND), EXACT, Side.BLOB, Reason.TIE),
        (at(SECOND + 1, 1), at(0, SECOND), EXACT, Side.BLOB, Reason.LATER_WRITE),
        # The uncertainty of the clocks comes on top.
        (at(0, SECOND), at(3 * SECOND // 2, 1), HALF, Side.BLOB, Reason.TIE),
        (at(0, SECOND), at(3 * SECOND // 2 + 1, 1), HALF, Side.VAST, Reason.LATER_WRITE),
        (at(0), at(SECOND // 2 + 2), HALF, Side.VAST, Reason.LATER_WRITE),
        # A known time beats an unknown one, however early.
        (at(-(10**12)), None, HALF, Side.BLOB, Reason.ONLY_KNOWN_TIME),
        (None, at(-(10**12)), HALF, Side.VAST, Reason.ONLY_KNOWN_TIME),
        (None, None, HALF, Side.BLOB, Reason.TIE),
        (None, None, replace(HALF, tie_winner=Side.VAST), Side.VAST, Reason.TIE),
        (at(0), at(0), replace(HALF, tie_winner=Side.VAST), Side.VAST, Reason.TIE),
    ],
)
def test_the_order_of_two_times(blob: Stamp | None, vast: Stamp | None, rules: Rules, winner: Side, reason: Reason) -> None:
    """Later by more than the doubt wins; within it the configured side does."""
    assert precedence(blob, vast, rules) == (winner, reason)


times = st.none() | st.builds(
    Stamp,
    st.integers(T0 - 3 * SECOND, T0 + 3 * SECOND),
    st.sampled_from([1, 1000, SECOND]),
    st.sampled_from(StampOrigin),
)
rulesets = st.builds(
    Rules,
    tie_winner=st.sampled_from(Side),
    clock_uncertainty_us=st.sampled_from([0, SECOND // 2, 10 * SECOND]),
)


@given(times, times, rulesets)
def test_exactly_one_side_wins_whichever_is_asked_first(one: Stamp | None, two: Stamp | None, rules: Rules) -> None:
    """Total and antisymmetric: with the sides and the tie rule swapped, the same write wins for the same reason."""
    winner, reason = precedence(one, two, rules)
    assert precedence(two, one, replace(rules, tie_winner=rules.tie_winner.other)) == (winner.other, reason)
    assert precedence(one, two, rules) == (winner, reason)


@given(times, times, rulesets)
def test_only_a_tie_asks_for_the_tie_rule(one: Stamp | None, two: Stamp | None, rules: Rules) -> None:
    """Where times decide, the configured winner changes nothing."""
    winner, reason = precedence(one, two, rules)
    other = precedence(one, two, replace(rules, tie_winner=rules.tie_winner.other))
    assert other == ((winner.other, reason) if reason is Reason.TIE else (winner, reason))


@given(times, times, rulesets, st.integers(0, 999_999), st.integers(0, 999_999))
def test_no_difference_finer_than_the_coarser_precision_decides(
    one: Stamp | None, two: Stamp | None, rules: Rules, nudge_one_us: int, nudge_two_us: int
) -> None:
    """Of two times that lie within the coarser of their precisions, neither wins by being later."""
    if one is None or two is None:
        return
    coarser_us = max(one.precision_us, two.precision_us)
    start_us = one.at_us - one.at_us % coarser_us
    near = [replace(time, at_us=start_us + nudge % coarser_us) for time, nudge in ((one, nudge_one_us), (two, nudge_two_us))]
    assert precedence(near[0], near[1], rules) == (rules.tie_winner, Reason.TIE)


@given(times, times, rulesets, st.integers(0, 5 * SECOND))
def test_more_doubt_turns_winners_into_ties_and_never_into_losers(
    one: Stamp | None, two: Stamp | None, rules: Rules, more_us: int
) -> None:
    """What the measurement of the clocks leaves open widens the tie, exactly as the configured uncertainty does."""
    before = precedence(one, two, rules)
    after = precedence(one, two, replace(rules, skew_uncertainty_us=more_us))
    assert after in (before, (rules.tie_winner, Reason.TIE))
    assert after == precedence(one, two, replace(rules, clock_uncertainty_us=rules.clock_uncertainty_us + more_us))


@given(times, times, rulesets, st.integers(-(10**9), 10**9))
def test_only_the_difference_of_two_times_counts(one: Stamp | None, two: Stamp | None, rules: Rules, shift_us: int) -> None:
    """Stable: the same two writes at another time of day, asked in any order, have the same winner."""
    shifted = [replace(time, at_us=time.at_us + shift_us) if time is not None else None for time in (one, two)]
    assert precedence(shifted[0], shifted[1], rules) == precedence(one, two, rules)


@given(st.lists(st.tuples(st.sampled_from(Side), times), min_size=2, max_size=6), rulesets)
def test_no_contest_of_a_chain_lets_an_earlier_write_stand_beyond_the_doubt(
    writes: list[tuple[Side, Stamp | None]], rules: Rules
) -> None:
    """A pair holds two versions at a time, so three meet one after the other; each contest on its own is within the doubt.

    That such chains end is shown where versions are real objects: tests/unit/test_decide_world.py.
    """
    (_, current), *rest = writes
    for side, new in rest:
        blob, vast = (new, current) if side is Side.BLOB else (current, new)
        winner, _ = precedence(blob, vast, rules)
        current, loser = (blob, vast) if winner is Side.BLOB else (vast, blob)
        assert current is not None or loser is None
        if loser is not None and current is not None:
            doubt_us = max(loser.precision_us, current.precision_us) + rules.clock_uncertainty_us
            assert current.at_us >= loser.at_us - doubt_us


@given(times, times, st.sampled_from([0, SECOND]), st.sampled_from(StampOrigin))
def test_where_a_time_comes_from_does_not_outrank_it(
    one: Stamp | None, two: Stamp | None, uncertainty_us: int, origin: StampOrigin
) -> None:
    """Only the time and its precision are compared."""
    rules = Rules(clock_uncertainty_us=uncertainty_us)
    renamed = replace(one, origin=origin) if one is not None else None
    assert precedence(renamed, two, rules) == precedence(one, two, rules)


# ------------------------------------------------------------------------------------------------------------ logical times


def held(*, md5: str | None = "m", origin: OriginStamp | None = None, written: Stamp | None = None) -> Present:
    """An object whose service says it was modified at 90 s."""
    return Present(Version("etag", 3, at(90 * SECOND, SECOND), md5=md5), origin=origin, written=written)


def copied_from(side: Side, *, md5: str | None = "m") -> OriginStamp:
    """Our stamp: its user wrote it on *side* at 10 s."""
    return OriginStamp(side, "peer", at(10 * SECOND), md5, "")


def test_the_time_of_a_user_s_version_is_its_event_s_else_last_modified() -> None:
    """The sub-second time of the event that names this version goes before the service's whole seconds."""
    assert logical_stamp(held(), Side.BLOB, EXACT) == at(90 * SECOND, SECOND)
    assert logical_stamp(held(written=at(90_250_000)), Side.BLOB, EXACT) == at(90_250_000)


def test_the_time_of_our_copy_is_when_its_user_wrote_it() -> None:
    """Not when we copied it, not even when an event told of our copy."""
    copy = held(origin=copied_from(Side.BLOB), written=at(95 * SECOND))
    assert logical_stamp(copy, Side.VAST, EXACT) == at(10 * SECOND)


@pytest.mark.parametrize(("own", "stamped"), [("changed", "m"), (None, "m"), ("m", None), (None, None)])
def test_a_stamp_that_proves_nothing_gives_no_time(own: str | None, stamped: str | None) -> None:
    """Content changed under a kept stamp, or no hash to compare: the version is dated by its own side."""
    assert logical_stamp(held(md5=own, origin=copied_from(Side.BLOB, md5=stamped)), Side.VAST, EXACT) == at(90 * SECOND, SECOND)


def test_the_doubt_is_the_sum_of_precision_clocks_and_measurement() -> None:
    """Each of the three on its own is not enough to hide a write that is later by more than their sum."""
    rules = Rules(clock_uncertainty_us=2 * SECOND, skew_uncertainty_us=3 * SECOND)
    assert precedence(at(6 * SECOND, SECOND), at(0, 1), replace(rules, tie_winner=Side.VAST)) == (Side.VAST, Reason.TIE)
    assert precedence(at(6 * SECOND + 1, SECOND), at(0, 1), rules) == (Side.BLOB, Reason.LATER_WRITE)


@pytest.mark.parametrize("ahead_us", [7 * SECOND, -7 * SECOND])
def test_vast_times_are_put_on_blob_s_clock(ahead_us: int) -> None:
    """A measured skew is taken off VAST's times, keeps their precision and origin, and leaves Blob's alone."""
    rules = replace(EXACT, vast_ahead_us=ahead_us)
    assert logical_stamp(held(), Side.VAST, rules) == at(90 * SECOND - ahead_us, SECOND)
    assert logical_stamp(held(), Side.BLOB, rules) == at(90 * SECOND, SECOND)
    assert on_common_clock(at(0), Side.BLOB, rules) == at(0)
    told = Stamp(T0, 1, StampOrigin.EVENT)
    assert on_common_clock(told, Side.VAST, rules) == replace(told, at_us=T0 - ahead_us)


def test_a_stamp_is_dated_by_the_common_clock() -> None:
    """It was put there when the copy was made: no clock is taken off again."""
    rules = replace(EXACT, vast_ahead_us=4 * SECOND)
    assert logical_stamp(held(origin=copied_from(Side.VAST)), Side.BLOB, rules) == at(10 * SECOND)
    assert logical_stamp(held(origin=copied_from(Side.BLOB)), Side.VAST, rules) == at(10 * SECOND)


def test_a_clock_that_is_ahead_does_not_win() -> None:
    """The write that was really later wins although VAST's clock shows a later time for the other."""
    rules = replace(HALF, vast_ahead_us=60 * SECOND)
    blob, vast = at(10 * SECOND), at(65 * SECOND)
    assert precedence(blob, on_common_clock(vast, Side.VAST, rules), rules) == (Side.BLOB, Reason.LATER_WRITE)
