"""Invocations that scan: what one process does once, what it leaves to others. On in-memory state and stores."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import azure.functions as func
import pytest
import structlog

from federation.model import Side
from function_app import process, scans
from function_app.scans import HELPERS
from operations import scanning
from reconciler import finishing, wanted
from reconciler.book import Book, range_task
from reconciler.comparison import AfterBatch, Anew, Comparison
from reconciler.ranges import Plan
from reconciler.report import Report
from reconciler.sweep import SWEEPS, Turn
from reconciler.withheld import Gone
from tests.unit.function_lab import App, LabState, call, fresh_app


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Two pairs on one account, worked on."""
    async with fresh_app(tmp_path, monkeypatch) as made:
        made.halted = False
        yield made


def _part(prefix: str = "") -> func.QueueMessage:
    return func.QueueMessage(body=json.dumps({"pair": "one", "prefix": prefix}).encode())


def _listings(app: App) -> int:
    """How often a listing of Blob was begun."""
    return sum(name == "list" for name, _ in app.stores["one", Side.BLOB].calls)


@dataclass
class Ranges:
    """A scan of four ranges that is written down: which were begun; each waits at its start."""

    begun: list[str] = field(default_factory=list)
    free: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
async def ranges(app: App, monkeypatch: pytest.MonkeyPatch) -> Ranges:
    """Of the first pair, which holds one object."""
    await app.put("unseen")
    plan = Plan(scan="s", started_us=1, fresh_state=True, turn=Turn(64), bounds=["b", "c", "d"])
    await Book(app.states["one"]).write_plan(plan)
    made, compare = Ranges(), Comparison.compare_span

    async def waiting(
        self: Comparison, report: Report, withheld: list[Gone], after_batch: AfterBatch | None, anew: Anew | None
    ) -> None:
        made.begun.append(report.after)
        await made.free.wait()
        await compare(self, report, withheld, after_batch, anew)

    monkeypatch.setattr(Comparison, "compare_span", waiting)
    return made


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_one_process_takes_one_part(app: App, ranges: Ranges) -> None:
    """The host gives all calls for help to one instance: but for the first they end at once, and each range is read once."""
    parts = [asyncio.create_task(call("reconcile_range", _part())) for _ in range(HELPERS)]
    await _until(lambda: sum(part.done() for part in parts) == HELPERS - 1 and len(ranges.begun) == 4)
    ranges.free.set()
    await asyncio.gather(*parts)
    assert (sorted(ranges.begun), app.arrived()) == (["", "b", "c", "d"], {"unseen"})


async def test_what_another_invocation_scans_is_left_to_it(app: App, ranges: Ranges, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it has this host's name and this process's number, as instances of an app may."""
    first = asyncio.create_task(call("reconcile_range", _part()))
    await _until(lambda: len(ranges.begun) == 4)
    tried: list[str] = []
    own = LabState.own

    async def noting(self: LabState, task: str, *, owner: str, ttl_seconds: float) -> bool:
        tried.append(task)
        return await own(self, task, owner=owner, ttl_seconds=ttl_seconds)

    monkeypatch.setattr(LabState, "own", noting)
    other = process.Process()
    with monkeypatch.context() as patch:
        patch.setattr(process, "PROCESS", other)
        second = asyncio.create_task(call("reconcile_range", _part()))
        await _until(lambda: {range_task(number) for number in range(4)} <= set(tried))
    ranges.free.set()
    await asyncio.gather(first, second)
    await other.close()
    assert (sorted(ranges.begun), app.arrived()) == (["", "b", "c", "d"], {"unseen"})


@pytest.mark.parametrize("prefix", ["", "dir/"])
async def test_what_is_no_longer_due_is_not_scanned(app: App, prefix: str) -> None:
    """A call that was left over from a scan that is over starts none."""
    await app.put("unseen")
    await wanted.ask(app.states["one"], "dir/", now_us=1)
    await call("reconcile_range", _part())
    once = _listings(app)
    await call("reconcile_range", _part(prefix))
    assert _listings(app) == once


async def test_a_part_that_takes_too_long_is_left_to_a_scan_of_all(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept of how far it came, so it would be cut off each minute again; of the whole pair ranges are kept."""
    await app.put("dir/unseen")
    await call("reconcile_range", _part())
    await wanted.ask(app.states["one"], "dir/", now_us=1)

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    pair = await process.PROCESS.pair("one")
    with monkeypatch.context() as patch:
        patch.setattr(Comparison, "compare_span", hang)
        await scans.scan(pair, "dir/", 0.02)
    assert await scans.due(pair) == [""]
    await call("reconcile_range", _part())
    assert await scans.due(pair) == []


async def test_an_end_that_takes_longer_than_an_invocation_comes(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each invocation gets through one shard's tombstones and hangs in the next one; there the next invocation goes on."""
    await app.put("unseen")
    monkeypatch.setattr(finishing, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(scanning, "MOST_UNSAVED_SECONDS", 0.0)
    pair = await process.PROCESS.pair("one")
    looked: list[int] = []
    left = 0

    async def one_each(_: LabState, shard: int, *, before_us: int) -> int:
        nonlocal left
        del before_us
        looked.append(shard)
        left -= 1
        if left < 0:
            await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(LabState, "forget_tombstones", one_each)
    async with asyncio.timeout(30):
        while await scans.due(pair):
            left = 1
            await scans.scan(pair, "", 0.2)
    many = -(-pair.state.shards // SWEEPS)
    assert many > 2
    assert set(looked) == set(range(many))
    assert max(Counter(looked).values()) == 2


async def test_a_scan_of_which_nothing_could_be_kept_says_what_to_do(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that must be read whole before it gives a first entry, and takes too long for that, would be begun for ever."""
    await app.put("unseen")
    pair = await process.PROCESS.pair("one")

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Comparison, "compare_span", hang)
    with structlog.testing.capture_logs() as lines:
        await scans.scan(pair, "", 0.02)
    [told] = [line for line in lines if line["log_level"] == "warning"]
    assert "fedplane reconcile" in told["event"]
    assert await scans.due(pair) == [""]
