"""Commands ride over what passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from federation.clock import SystemClock
from federation.errors import Halt, RetryLater, UsageError
from federation.model import ListEntry, Side
from fedplane.commands.reconcile import Part, _scan
from fedplane.patience import patiently
from reconciler import parallel
from reconciler.book import history
from tests.unit.test_ranges import _Pair


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


def test_what_gets_further_each_time_is_never_given_up() -> None:
    """Ten faults in an hour's work are no outage; the same number at one place are."""
    step = _Step(100, RetryLater("busy"))
    assert asyncio.run(patiently(step, _Clock(), lambda: step.calls)) == "done"
    stuck = _Step(100, RetryLater("busy"))
    with pytest.raises(RetryLater):
        asyncio.run(patiently(stuck, _Clock(), lambda: min(stuck.calls, 5)))
    assert stuck.calls == 15


async def test_a_long_scan_rides_over_more_faults_than_one_place_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt came further; the history tells of them once."""
    monkeypatch.setattr("reconciler.comparison.BATCH", 50)
    monkeypatch.setattr(parallel, "POLL_SECONDS", 0.01)
    pair = _Pair()
    await pair.fill(4_000)
    await pair.process("a").scan()
    vast, faults = pair.servers[Side.VAST], 0
    original = vast.list

    async def blips(*, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        nonlocal faults
        count = 0
        async for entry in original(prefix=prefix, start_after=start_after):
            count += 1
            if count == 230:
                faults += 1
                raise RetryLater("503", reason="throttled")
            yield entry

    monkeypatch.setattr(vast, "list", blips)
    report = await _scan(pair.process("a"), Part("", ()), 4_000, lambda *_: None, _Clock())
    assert (report.complete, report.rows, report.passing) == (True, 4_000, False)
    assert faults > 11
    assert [one.complete for one in await history(pair.state)] == [True, False, True]


@pytest.mark.parametrize(("told", "waited"), [(60.0, 60.0), (600.0, 120.0)])
async def test_what_a_side_says_of_when_to_come_back_is_waited_out(told: float, waited: float) -> None:
    """A scan whose page was refused for a minute is not given up after half of one; nobody waits for more than two at once."""
    pair, clock = _Pair(), _Clock()
    await pair.fill(10)
    pair.servers[Side.VAST].fail_next("list", RetryLater("503", reason="throttled", after_seconds=told))
    report = await _scan(pair.process("a"), Part("", ()), 10, lambda *_: None, clock)
    assert (report.complete, report.after_seconds, clock.slept_seconds) == (True, None, waited)
    first = (await history(pair.state))[0]
    assert (first.complete, first.after_seconds) == (False, told)


async def test_a_user_s_mistake_in_a_scan_is_not_tried_again() -> None:
    """It is told at once."""
    pair, asked = _Pair(), 0

    async def guard() -> None:
        nonlocal asked
        asked += 1
        raise UsageError("no such bucket")

    scanner = pair.process("a")
    scanner._guard = guard
    report = await _scan(scanner, Part("", ()), 0, lambda *_: None, _Clock())
    assert (asked, report.complete, report.error) == (1, False, "no such bucket")


@pytest.mark.parametrize(("prefix", "known", "why"), [("", 0, True), ("", 10, False), ("k", 0, False)])
async def test_a_first_scan_s_progress_says_why_it_has_no_share(prefix: str, known: int, why: bool) -> None:
    """How many objects there are is known once a whole scan was; of a prefix it never is."""
    pair, notes = _Pair(), set[str]()
    await pair.fill(10)
    await _scan(pair.process("a"), Part(prefix, ()), known, lambda _, __, note="": notes.add(note), _Clock())
    assert notes
    assert all(note.endswith("; total not known before the first whole scan") == why for note in notes)
