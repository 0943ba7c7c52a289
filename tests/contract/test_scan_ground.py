"""A scan under which the state went back, or was emptied, does not count as complete, whoever marked what is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from federation.model import Base, Metadata, Side
from federation.progress import GAP_NOTE, UNION_NOTE
from federation.settings import RedisSettings
from federation.state.calls import Client
from federation.state.embedded import connect
from federation.state.marks import SCANNED_US
from federation.state.redis_state import RedisState
from federation.stores.memory import MemoryStore
from operations.lost_marks import LostMarks
from reconciler import parallel
from reconciler.book import Book, whole_scans
from reconciler.converged import CLOCK_SLACK_US
from reconciler.scan import Scanner, ScanOptions
from tests.contract.state_support import TestClock, go_back, kept

ROWS = 300


class Clock(TestClock):
    """Who sleeps for long moves it on."""

    async def sleep(self, seconds: float) -> None:
        """At once."""
        self.us += int(seconds * 1_000_000)
        await super().sleep(0)


class World:
    """Blob has what VAST has not; one Redis; processes by their markers."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.clock = Clock()
        self.sides = {side: MemoryStore(side, clock=self.clock) for side in Side}
        self.engine = self.process("engine")

    def process(self, marker: str) -> RedisState:
        """One of its own."""
        return RedisState(self.client, "pair", shards=2, clock=self.clock, marker=marker)

    def scanner(self, state: RedisState, during: Callable[[], Awaitable[object]] | None = None, at: int = 2) -> Scanner:
        """Of *state*'s process; *during* happens once, when *at* batches are looked up."""
        bases, looked = state.bases, 0

        async def hooked(keys: Sequence[str]) -> Sequence[Base | None]:
            nonlocal looked
            looked += 1
            if looked == at and during is not None:
                await during()
            return await bases(keys)

        state.bases = hooked  # type: ignore[method-assign]
        options = ScanOptions(owner=state._marks.marker, range_rows=100, save_rows=100, parallel=1)
        return Scanner(dict(self.sides), state, state, self.clock, quiet_us=0, tombstone_us=2**52, options=options)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Opened by an engine."""
    monkeypatch.setattr("reconciler.comparison.BATCH", 50)
    monkeypatch.setattr(parallel, "POLL_SECONDS", 0.01)
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    made = World(client)
    await made.engine.open()
    for number in range(ROWS):
        await made.sides[Side.BLOB].put(f"k{number:05d}", b"x", Metadata(), stamp=None, expected_etag=None)
    yield made
    await made.engine.close()
    await server.stop()


@pytest.mark.parametrize("what", [{}, {"prefix": "k"}, {"prefix": "k", "resumes": True}])
async def test_a_command_whose_own_marks_were_lost_says_so_and_notes_the_gap(world: World, what: dict[str, Any]) -> None:
    """Nobody else may look after it; the next whole scan begins after the gap by any clock, so that it is made up for."""
    before = await kept(world.engine)
    command = world.process("command")
    report = await world.scanner(command, lambda: go_back(command, before)).scan(**what)
    assert (report.complete, report.passing, "lost marks" in report.error) == (False, True, True)
    gap = await world.engine.note(GAP_NOTE)
    assert gap
    assert await whole_scans(world.engine) == []
    report = await world.scanner(command).scan()
    assert report.complete
    assert report.started_us >= int(gap) + CLOCK_SLACK_US
    assert len(await world.engine.dirty_keys(limit=999)) == ROWS
    await LostMarks(world.engine, world.clock, pytest.fail).look()
    assert await world.engine.note(GAP_NOTE) is None


async def test_given_keys_whose_marks_were_lost_are_not_said_to_be_compared(world: World) -> None:
    """As a scan of all."""
    before = await kept(world.engine)
    command = world.process("command")
    keys = [f"k{number:05d}" for number in range(ROWS)]
    report = await world.scanner(command, lambda: go_back(command, before)).scan_keys(keys)
    assert (report.complete, "lost marks" in report.error) == (False, True)
    assert await world.engine.note(GAP_NOTE)


async def test_marks_of_a_helper_that_is_gone_are_looked_after_by_who_ends_the_scan(world: World) -> None:
    """It saved its part, died, and the shards went back: who goes on made no mark that is missing."""
    helper, command = world.process("helper"), world.process("command")
    shards = {key: value for key, value in (await kept(world.engine)).items() if b"/" in key}

    async def dies() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await world.scanner(helper, dies, at=5).scan()
    plan = await Book(command).plan()
    assert plan is not None
    await command.disown("scan:range:0", owner="helper")
    await go_back(command, {key: value for key, value in (await kept(command)).items() if b"/" not in key} | shards)
    assert await command.lost_marks() == (f"{plan.ground.task}:helper",)
    report = await world.scanner(command).scan()
    assert (report.complete, report.resumed, "lost marks" in report.error) == (False, 1, True)
    assert await Book(command).plan() is None
    assert (await world.scanner(command).scan()).complete
    assert len(await world.engine.dirty_keys(limit=999)) == ROWS
    assert await world.engine.lost_marks() == ()


async def test_a_command_that_sends_no_heartbeat_is_not_forgotten_under_its_scan(world: World) -> None:
    """Else its marks would seem lost. When the scan is over nothing is kept of it."""
    command = world.process("command")
    report = await world.scanner(command, lambda: world.engine.forget_markers([]), at=5).scan()
    assert (report.complete, await world.engine.note(GAP_NOTE)) == (True, None)
    assert await world.engine.forget_markers([]) > 0


async def test_what_a_scan_keeps_is_forgotten_by_its_age(world: World) -> None:
    """One that nobody ever goes on with."""
    command = world.process("command")
    with pytest.raises(SystemExit):
        await world.scanner(command, _exits).scan()
    assert await world.engine.forget_markers([]) == 0
    world.clock.us += SCANNED_US + 1
    assert await world.engine.forget_markers([]) > 0


async def _exits() -> None:
    raise SystemExit


async def test_a_gap_that_is_noted_under_a_scan_is_not_made_up_for_by_it(world: World) -> None:
    """It may have passed the keys whose marks another process lost, whatever the clocks say."""
    scanner = world.scanner(world.engine, lambda: world.engine.put_note(GAP_NOTE, b"1"))
    report = await scanner.scan()
    assert (report.complete, await whole_scans(world.engine)) == (False, [])
    assert (await scanner.scan()).complete


@pytest.mark.parametrize("before", [b"", b"1", b"older"])
async def test_a_base_that_is_lost_again_under_a_scan_stays_in_union_mode(world: World, before: bytes) -> None:
    """The scan that began before does not rebuild it; the next does, whatever value the note has."""
    await world.engine.put_note(UNION_NOTE, before)
    scanner = world.scanner(world.engine, lambda: world.engine.put_note(UNION_NOTE, b"newer"))
    report = await scanner.scan()
    assert (report.complete, "was emptied" in report.error) == (False, True)
    assert await world.engine.note(UNION_NOTE) == b"newer"
    assert await Book(world.engine).plan() is None
    report = await scanner.scan()
    assert (report.complete, report.fresh_state, await world.engine.note(UNION_NOTE)) == (True, True, None)
