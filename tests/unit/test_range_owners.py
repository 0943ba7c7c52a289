"""A process that was stopped for longer than it owned its range does not undo what others did meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from federation.model import Side
from reconciler import parallel
from reconciler.book import range_task
from reconciler.parallel import ParallelScan
from reconciler.ranges import Progress
from reconciler.scan import ScanOptions
from tests.unit.test_leases import HandClock
from tests.unit.test_ranges import _counts, _Pair

Meanwhile = Callable[[_Pair], Awaitable[None]]


async def _others_finish_the_range(pair: _Pair) -> None:
    """And are stopped in the last one."""
    pair.servers[Side.VAST].fail_at = "k01900"
    assert not (await pair.process("b").scan()).complete
    pair.servers[Side.VAST].fail_at = ""


async def _others_begin_the_next_scan(pair: _Pair) -> None:
    """Whose ranges have the same numbers; the first of them is kept half done."""
    whole = await pair.process("b").scan()
    assert whole.complete
    pair.servers[Side.VAST].fail_at = "k00300"
    assert not (await pair.process("b").scan()).complete
    pair.servers[Side.VAST].fail_at = ""


@pytest.mark.parametrize("meanwhile", [_others_finish_the_range, _others_begin_the_next_scan])
async def test_who_was_stopped_writes_nothing_over_what_others_kept(
    meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It owns the range again when it wakes, and loses it to what it finds there; its scan is whole all the same."""
    monkeypatch.setattr("reconciler.comparison.BATCH", 100)
    monkeypatch.setattr(parallel, "POLL_SECONDS", 0.001)
    clock = HandClock()
    pair = _Pair(clock=clock)
    await pair.fill(2_000)
    await pair.process("a").scan()
    save = ParallelScan._save
    notes: list[bytes | None] = []

    async def stopped_once(scan: ParallelScan, number: int, progress: Progress) -> None:
        if scan._owner != "a" or notes:
            return await save(scan, number, progress)
        clock.seconds += parallel.OWNED_SECONDS
        notes.append(None)
        await meanwhile(pair)
        notes[:] = [await pair.state.note(range_task(number))]
        try:
            await save(scan, number, progress)
        finally:
            notes.append(await pair.state.note(range_task(number)))

    monkeypatch.setattr(ParallelScan, "_save", stopped_once)
    options = ScanOptions(owner="a", range_rows=500, parallel=1, save_rows=200)
    report = await pair.process("a", options).scan()
    assert notes[0]
    assert notes[0] == notes[1]
    assert _counts(report) == (True, 1_800, 2_000, {"only_on_blob": 200})
