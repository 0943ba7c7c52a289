"""The measured difference of a service's clock from ours, and how far off it may be."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.model import UNMEASURED_US, ClockSkew, Side
from federation.stores.lane import SkewMeter
from tests.unit.store_server import ABSURD_DATES
from tests.unit.world import World

SECOND = 1_000_000
T0 = 1_700_000_000 * SECOND


def date(at_us: int) -> str:
    """The header of a service whose clock shows that."""
    return format_datetime(datetime.fromtimestamp(at_us // SECOND, UTC), usegmt=True)


def test_before_the_first_answer_the_clock_could_be_anything() -> None:
    """And an unreadable header tells nothing."""
    meter = SkewMeter()
    for text in (None, "", "yesterday", *ABSURD_DATES):
        meter.note(text, T0, T0)
    assert meter.measured == ClockSkew(0, UNMEASURED_US)


def test_one_answer_leaves_two_seconds_and_its_own_duration_open() -> None:
    """The header has whole seconds, may be one late, and was written at some moment of the request."""
    meter = SkewMeter()
    meter.note(date(T0 + 100 * SECOND), T0, T0 + 200_000)
    assert meter.measured == ClockSkew(100_900_000, 1_100_000)


def test_while_the_clocks_may_agree_they_are_taken_to_and_the_doubt_reaches_to_the_farther_bound() -> None:
    """Times are left alone as long as nothing proves them wrong."""
    meter = SkewMeter()
    meter.note(date(T0), T0 + 900_000, T0 + 950_000)
    assert meter.measured == ClockSkew(0, 950_000)


answers = st.lists(st.tuples(st.integers(0, 5 * SECOND), st.integers(0, SECOND), st.integers(0, SECOND)), min_size=1, max_size=60)


@given(st.integers(-100 * SECOND, 100 * SECOND), answers)
def test_the_true_difference_is_never_further_off_than_the_uncertainty(skew_us: int, gaps: list[tuple[int, int, int]]) -> None:
    """Whatever the requests take, and it never grows with more answers of one window."""
    meter, now, last = SkewMeter(), T0, UNMEASURED_US * 10
    for gap, there, back in gaps:
        now += gap
        meter.note(date(now + there + skew_us), now, now + there + back)
        measured = meter.measured
        assert abs(measured.us - skew_us) <= measured.uncertainty_us
        if measured.us:
            assert measured.uncertainty_us <= last + 1
            last = measured.uncertainty_us


@pytest.mark.parametrize(("ahead_us", "doubt_us"), [(0, 10_000), (5 * SECOND, 510_000)])
def test_a_new_window_does_not_forget_what_the_one_before_knew(ahead_us: int, doubt_us: int) -> None:
    """The doubt stays small when the window turns over; of a clock that is off, half of what a late header may hide stays."""
    meter = SkewMeter()
    for number in range(1_200):
        sent = T0 + number * 1_013_000
        meter.note(date(sent + ahead_us), sent, sent + 1_000)
        if number > 999:
            assert meter.measured.uncertainty_us < doubt_us


@pytest.mark.parametrize("jump_us", [3600 * SECOND, -3600 * SECOND])
def test_a_clock_that_was_set_is_measured_anew(jump_us: int) -> None:
    """An answer that no bound allows starts over."""
    meter = SkewMeter()
    for number in range(50):
        meter.note(date(T0 + number * 1_013_000), T0 + number * 1_013_000, T0 + number * 1_013_000)
    meter.note(date(T0 + jump_us), T0, T0)
    assert meter.measured == ClockSkew(jump_us + SECOND, SECOND)


async def test_both_sides_doubt_goes_into_the_rules() -> None:
    """What either measurement leaves open adds up."""
    world = World()
    skews = {Side.BLOB: ClockSkew(2 * SECOND, 300_000), Side.VAST: ClockSkew(9 * SECOND, 400_000)}
    for side in Side:

        async def told(skew: ClockSkew = skews[side]) -> ClockSkew:
            return skew

        world.raw[side].clock_skew = told  # type: ignore[method-assign]
    rules = await world.ctx.current_rules()
    assert (rules.vast_ahead_us, rules.skew_uncertainty_us) == (7 * SECOND, 700_000)


@pytest.mark.parametrize("phase_us", [100_000, 500_000, 900_000])
def test_a_server_that_hands_out_an_old_header_is_not_taken_for_one_with_a_slow_clock(phase_us: int) -> None:
    """Its header is made once a second, at some moment of the second, and is up to a second late until the next."""
    meter = SkewMeter()
    for tick in range(400):
        now = T0 + tick * 70_000
        made = now - (now - phase_us) % SECOND
        meter.note(date(made), now, now + 1_000)
        if tick > 30:
            assert meter.measured.us == 0
