"""Commands ride over what passes."""

from __future__ import annotations

import asyncio

import pytest

from federation.clock import SystemClock
from federation.errors import Halt, RetryLater
from fedplane.patience import patiently


class _Clock(SystemClock):
    """Its pauses take no time."""

    def __init__(self) -> None:
        self.slept_seconds = 0.0

    async def sleep(self, seconds: float) -> None:
        """Only count."""
        self.slept_seconds += seconds


class _Step:
    """Refuses so often."""

    def __init__(self, refusals: int, error: Exception) -> None:
        self.calls = 0
        self._refusals = refusals
        self._error = error

    async def __call__(self) -> str:
        """One try."""
        self.calls += 1
        if self.calls <= self._refusals:
            raise self._error
        return "done"


def test_what_passes_is_tried_again() -> None:
    """A server that comes back within seconds costs a command those seconds, and what it says of when to come is kept to."""
    clock, step = _Clock(), _Step(3, RetryLater("busy", after_seconds=4.0))
    assert asyncio.run(patiently(step, clock)) == "done"
    assert (step.calls, clock.slept_seconds) == (4, 12.0)


def test_what_stays_ends_it_after_half_a_minute() -> None:
    """Whoever waits before a terminal is told in time, with the last refusal."""
    clock, step = _Clock(), _Step(1_000, RetryLater("away"))
    with pytest.raises(RetryLater, match="away"):
        asyncio.run(patiently(step, clock))
    assert 18 <= clock.slept_seconds <= 40


def test_what_does_not_pass_is_not_tried_again() -> None:
    """A halt needs a person."""
    step = _Step(1, Halt("refused"))
    with pytest.raises(Halt):
        asyncio.run(patiently(step, _Clock()))
    assert step.calls == 1
