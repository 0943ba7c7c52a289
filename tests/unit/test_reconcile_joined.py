"""``fedplane reconcile`` says how it is now, also where a scan was under way, or cut off, when it was asked."""

from __future__ import annotations

import pytest

from federation.clock import SystemClock
from federation.model import Metadata, Side
from fedplane.commands.reconcile import Outcome, Part, _compared, _text
from reconciler import wanted
from reconciler.periodic import PeriodicScan
from reconciler.report import Report
from reconciler.scan import Scanner, ScanOptions
from tests.unit.test_ranges import MONTH_US, _Pair

MINUTE_US = 60_000_000
DAY_US = 24 * 60 * MINUTE_US


class _Clock(SystemClock):
    """Ahead of ours by so much; waits for nothing."""

    def __init__(self) -> None:
        self.ahead_us = 0
        self.slept_seconds = 0.0

    def monotonic_seconds(self) -> float:
        """As slept."""
        return super().monotonic_seconds() + self.slept_seconds

    def now_us(self) -> int:
        """As set."""
        return super().now_us() + self.ahead_us

    async def sleep(self, seconds: float) -> None:
        """Nothing happens meanwhile."""
        self.slept_seconds += seconds


class _Bench:
    """A pair whose scan was cut off at its 250th key, by an outage or a kill; then a key came before that."""

    def __init__(self) -> None:
        self.clock = _Clock()
        self.pair = _Pair()

    def scanner(self, owner: str, *, asked: bool) -> Scanner:
        """One process's."""
        options = ScanOptions(owner=owner, range_rows=10_000, parallel=1, save_rows=100, asked=asked)
        stores, state = dict(self.pair.servers), self.pair.state
        return Scanner(stores, state, state, self.clock, quiet_us=0, tombstone_us=MONTH_US, options=options)

    async def cut_off(self, *, asked: bool) -> None:
        """Scan up to there."""
        await self.pair.fill(400)
        self.pair.servers[Side.VAST].fail_at = "k00250"
        assert not (await self.scanner("first", asked=asked).scan()).complete
        self.pair.servers[Side.VAST].fail_at = ""
        await self.pair.servers[Side.BLOB].put("k00001 new", b"new", Metadata(), stamp=None, expected_etag=None)

    async def command(self) -> tuple[Report, int, bool]:
        """The user asks."""
        return await _compared(self.scanner("command", asked=True), Part("", ()), 400, lambda *_: None, self.clock)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> _Bench:
    """In small batches."""
    monkeypatch.setattr("reconciler.comparison.BATCH", 50)
    return _Bench()


FOUND, WITHOUT_NEW = 41, 40


@pytest.mark.parametrize(("asked", "later_us"), [(True, 3 * DAY_US), (True, 16 * MINUTE_US), (False, 0)])
async def test_an_old_scan_or_another_one_s_is_ended_and_then_all_is_scanned_once_more(
    bench: _Bench, *, asked: bool, later_us: int
) -> None:
    """What it compared before the command began may be otherwise by now; the text says what was done."""
    await bench.cut_off(asked=asked)
    bench.clock.ahead_us = later_us
    report, joined_us, again = await bench.command()
    assert (report.complete, again, report.drift["only_on_blob"]) == (True, True, FOUND)
    assert 0 < joined_us < report.started_us
    told = _text(Outcome(pair="p", report=report, applied={}, joined_us=joined_us, again=again, outstanding=0))
    assert "went on with the scan of 20" in told
    assert "scanned once more" in told


async def test_a_command_that_was_cut_off_goes_on_when_it_is_given_again_soon(bench: _Bench) -> None:
    """However long it ran before: it was kept just now. The text says that it went on."""
    await bench.cut_off(asked=True)
    bench.clock.ahead_us = 14 * MINUTE_US
    report, joined_us, again = await bench.command()
    assert (report.complete, report.resumed, again, report.drift["only_on_blob"]) == (True, 1, False, WITHOUT_NEW)
    assert joined_us == report.started_us
    told = _text(Outcome(pair="p", report=report, applied={}, joined_us=joined_us, again=again, outstanding=0))
    assert "went on with the scan of 20" in told
    assert "once more" not in told


@pytest.mark.parametrize(
    ("task", "looks", "again"),
    [("scan:range:0", 3, False), ("scan:range:0", 1_000, True), ("scan:finishing", 3, True)],
    ids=["killed", "alive", "at its end"],
)
async def test_a_command_joins_another_that_is_still_at_work_and_then_scans_once_more(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch, task: str, looks: int, *, again: bool
) -> None:
    """Its knowledge is older than our asking; who was killed seems to be at work for a while, which is waited for."""
    await bench.cut_off(asked=True)
    asked = 0

    async def owners(_: str) -> dict[str, str]:
        nonlocal asked
        asked += 1
        return {task: "another"} if asked <= looks else {}

    monkeypatch.setattr(bench.pair.state, "owners", owners)
    report, joined_us, scanned_again = await bench.command()
    assert (report.complete, scanned_again) == (True, again)
    assert report.drift["only_on_blob"] == (FOUND if again else WITHOUT_NEW)
    assert joined_us > 0


async def test_a_command_that_is_cut_off_again_and_again_goes_on(bench: _Bench) -> None:
    """The time counts from the last of them that came further, not from the first."""
    await bench.cut_off(asked=True)
    bench.clock.ahead_us = 14 * MINUTE_US
    bench.pair.servers[Side.VAST].fail_at = "k00380"
    assert not (await bench.scanner("second", asked=True).scan()).complete
    bench.pair.servers[Side.VAST].fail_at = ""
    bench.clock.ahead_us = 28 * MINUTE_US
    report, _, again = await bench.command()
    assert (report.complete, report.resumed, again) == (True, 2, False)


async def test_who_goes_on_with_an_old_scan_does_not_make_it_younger(bench: _Bench) -> None:
    """Cut off again on that way, the next one still scans all once more."""
    await bench.cut_off(asked=True)
    bench.clock.ahead_us = 3 * DAY_US
    bench.pair.servers[Side.VAST].fail_at = "k00380"
    assert not (await bench.scanner("second", asked=True).scan()).complete
    bench.pair.servers[Side.VAST].fail_at = ""
    report, _, again = await bench.command()
    assert (again, report.drift["only_on_blob"]) == (True, FOUND)


async def test_where_no_scan_was_under_way_one_is_made(bench: _Bench) -> None:
    """Nothing is said of joining."""
    await bench.pair.fill(100)
    report, joined_us, again = await bench.command()
    assert (report.complete, joined_us, again) == (True, 0, False)
    told = _text(Outcome(pair="p", report=report, applied={}, outstanding=0))
    assert "went on" not in told


async def test_a_wish_is_fulfilled_by_a_scan_that_takes_several_processes(bench: _Bench) -> None:
    """As invocations of a function, each of which is cut off or ends what another began: also then it was asked for before."""
    await bench.pair.fill(400)
    await wanted.ask(bench.pair.state, "", now_us=bench.clock.now_us())
    for number in range(4):
        bench.clock.ahead_us += 2 * MINUTE_US
        bench.pair.servers[Side.VAST].fail_at = "" if number % 2 else "k00250"
        scans = PeriodicScan(bench.scanner(f"invocation {number}", asked=False), bench.clock, 3600.0, on_start=False)
        await scans.once("")
        assert bool(await wanted.asked(bench.pair.state)) == (number < 1)


async def test_a_wish_of_about_when_the_scan_began_waits_for_the_next(bench: _Bench) -> None:
    """The clocks of the process that asked and of the one that scanned may differ."""
    await bench.pair.fill(400)
    bench.pair.servers[Side.VAST].fail_at = "k00250"
    await PeriodicScan(bench.scanner("first", asked=False), bench.clock, 3600.0, on_start=False).once("")
    bench.pair.servers[Side.VAST].fail_at = ""
    await wanted.ask(bench.pair.state, "", now_us=bench.clock.now_us() - MINUTE_US // 2)
    bench.clock.ahead_us += 2 * MINUTE_US
    for wishes in (1, 0):
        await PeriodicScan(bench.scanner("second", asked=False), bench.clock, 3600.0, on_start=False).once("")
        assert len(await wanted.asked(bench.pair.state)) == wishes
