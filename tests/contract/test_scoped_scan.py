"""``fedplane reconcile --prefix`` cut off and asked for again: what it had compared is kept in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.errors import RetryLater
from federation.model import ListEntry, Metadata, Side
from federation.settings import RedisSettings
from federation.state.embedded import connect
from federation.state.redis_state import RedisState
from federation.stores.memory import MemoryStore
from reconciler import scoped
from reconciler.book import Book
from reconciler.report import Report
from reconciler.scan import Scanner, ScanOptions
from tests.contract.state_support import TestClock

ROWS = 2_000


class Server(MemoryStore):
    """A side that tells from where its prefix was listed, and may list in another order."""

    def __init__(self, side: Side, clock: TestClock) -> None:
        super().__init__(side, clock=clock)
        self.listed_from: list[str] = []
        self.disorder = False
        self.ordered = False  # as a process that has just begun

    async def list(self, *, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        """As the twin."""
        self.listed_from.append(start_after if self.ordered else "everything")
        async for entry in super().list(prefix=prefix, start_after=start_after):
            if self.disorder and entry.key > "p/k01900":
                self.ordered = False
                raise RetryLater("out of order", reason="listing_order", side=self.side)
            yield entry


class World:
    """Two sides whose prefix ``p/`` differs throughout, one Redis, and commands that come and go."""

    def __init__(self, state: RedisState, clock: TestClock) -> None:
        self.state = state
        self.clock = clock
        self.sides = {side: Server(side, clock) for side in Side}

    async def scan(self, prefix: str = "p/", *, cut_at: int = ROWS + 1, resumes: bool = True) -> Report:
        """A command of its own; it dies when it has compared *cut_at* rows."""
        options = ScanOptions(owner="one", save_rows=300, parallel=1)
        scanner = Scanner(dict(self.sides), self.state, self.state, self.clock, quiet_us=0, tombstone_us=9, options=options)

        def dies(report: Report) -> None:
            if report.rows >= cut_at:
                raise SystemExit

        for side in self.sides.values():
            side.listed_from.clear()
            side.ordered = False
        return await scanner.scan(prefix=prefix, on_progress=dies, resumes=resumes)


@pytest.fixture
async def world(clock: TestClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Blob has what VAST has not."""
    monkeypatch.setattr("reconciler.comparison.BATCH", 100)
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    state = RedisState(client, "pair", shards=2, clock=clock)
    await state.open()
    world = World(state, clock)
    for number in range(ROWS):
        await world.sides[Side.BLOB].put(f"p/k{number:05d}", b"x", Metadata(), stamp=None, expected_etag=None)
    yield world
    await state.close()
    await server.stop()


async def test_a_scan_of_a_prefix_goes_on_from_where_it_was_kept(world: World) -> None:
    """Every key is compared once and marked; the report is of both parts and says that it was taken up again."""
    with pytest.raises(SystemExit):
        await world.scan(cut_at=1_000)
    world.clock.us += 60_000_000
    began_us = world.clock.us
    report = await world.scan()

    assert (report.complete, report.rows, report.resumed, report.started_us < began_us) == (True, ROWS, 1, True)
    assert report.drift == {"only_on_blob": ROWS}
    assert (await world.state.backlog()).dirty == ROWS
    assert "1 of 1 done, 1 taken up again" in report.text()
    again = await world.scan()
    assert (again.rows, again.resumed) == (ROWS, 0)


async def test_listings_begin_at_the_kept_key_where_the_last_whole_scan_saw_an_order(world: World) -> None:
    """Else all is listed again, and what was compared is passed over."""
    for bounds in ([], ["p/k01000"]):
        await Book(world.state).write_bounds(bounds)
        with pytest.raises(SystemExit):
            await world.scan(cut_at=1_000)
        kept = await Book(world.state).scoped()
        assert kept is not None
        report = await world.scan()
        assert (report.rows, report.resumed) == (ROWS, 1)
        assert world.sides[Side.BLOB].listed_from == [kept.report.resume if bounds else "everything"]


async def test_an_order_that_does_not_hold_is_not_gone_on_with(world: World) -> None:
    """What was kept under it is forgotten: the next scan begins at the first key."""
    with pytest.raises(SystemExit):
        await world.scan(cut_at=1_000)
    world.sides[Side.BLOB].disorder = True
    assert not (await world.scan()).complete
    world.sides[Side.BLOB].disorder = False
    report = await world.scan()
    assert (report.complete, report.rows, report.resumed) == (True, ROWS, 0)


async def test_neither_another_prefix_nor_an_old_scan_nor_the_engine_goes_on_with_it(world: World) -> None:
    """They begin at their first key; of the engine's scans of prefixes nothing is kept."""
    with pytest.raises(SystemExit):
        await world.scan(cut_at=1_000)
    assert (await world.scan("p/k0")).resumed == 0
    with pytest.raises(SystemExit):
        await world.scan(cut_at=1_000)
    assert (await world.scan(resumes=False)).resumed == 0
    world.clock.us += scoped.KEPT_US + 1
    assert (await world.scan()).resumed == 0
    with pytest.raises(SystemExit):
        await world.scan(cut_at=1_000, resumes=False)
    assert await Book(world.state).scoped() is None
