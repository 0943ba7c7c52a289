"""Scans that somebody asked for: what is scanned together, and what other processes ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.model import Side
from federation.state.memory_state import MemoryState
from reconciler import wanted
from reconciler.periodic import PeriodicScan
from reconciler.report import Report
from reconciler.scan import Scanner


@pytest.mark.parametrize(
    ("prefixes", "most", "kept"),
    [
        ([], 2, ()),
        (["b/", "a/"], 2, ("a/", "b/")),
        (["a/", "a/b/", "a/x"], 9, ("a/",)),
        (["", "a/"], 9, ("",)),
        (["a/b/c/", "a/b/d/", "x/"], 2, ("a/b/", "x/")),
        (["a/b/c/", "a/d/", "x/"], 2, ("a/", "x/")),
        (["a/", "b/", "c/"], 2, ("",)),
        (["a/ph", "a/pi", "b"], 2, ("a/", "b")),
    ],
)
def test_neighbours_are_scanned_together(prefixes: list[str], most: int, kept: tuple[str, ...]) -> None:
    """None within another, and beyond the bound the deepest by their folder."""
    assert wanted.coalesce(prefixes, most) == kept


_PREFIX = st.lists(st.sampled_from(["a", "b", "cd"]), max_size=4).map("/".join)


@given(st.lists(_PREFIX | _PREFIX.map(lambda one: one + "/"), max_size=30), st.integers(1, 5))
def test_what_is_scanned_covers_what_was_asked_for(prefixes: list[str], most: int) -> None:
    """Never more scans than allowed, and each wish is within one."""
    kept = wanted.coalesce(prefixes, most)
    assert len(kept) <= most
    assert all(any(prefix.startswith(one) for one in kept) for prefix in prefixes)


@dataclass
class _Scans:
    """In place of the scanner: remembers what was scanned; fails the first *failures* times, and once at each of *bad*."""

    state: MemoryState = field(default_factory=lambda: MemoryState("pair", shards=1, clock=SystemClock()))
    done: list[str] = field(default_factory=list)
    failures: int = 0
    bad: set[str] = field(default_factory=set)
    plan: bool = False
    """Whether another process has a scan under way."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def scan(self, *, prefix: str = "", on_progress: object = None) -> Report:
        """As the scanner."""
        del on_progress
        await self.gate.wait()
        self.done.append(prefix)
        if self.failures:
            self.failures -= 1
            raise RetryLater("Redis does not answer")
        if prefix in self.bad:
            self.bad.discard(prefix)
            return Report(started_us=1, prefix=prefix, error="VAST is busy")
        return Report(started_us=1, prefix=prefix, complete=True)

    async def help_wanted(self) -> bool:
        """As the scanner."""
        return self.plan


class _Quick(SystemClock):
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))


@asynccontextmanager
async def _running(scans: _Scans, *, interval_seconds: float = 1e6) -> AsyncIterator[PeriodicScan]:
    scanner: Scanner = scans  # type: ignore[assignment]
    periodic = PeriodicScan(scanner, _Quick(), interval_seconds=interval_seconds, on_start=False)
    task = asyncio.create_task(periodic.run())
    yield periodic
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _until(scans: _Scans, count: int) -> None:
    async with asyncio.timeout(10):
        while len(scans.done) < count:
            await asyncio.sleep(0)


async def test_only_what_was_asked_for_is_scanned() -> None:
    """Wishes that come while a scan runs are done next, each once."""
    scans = _Scans()
    async with _running(scans) as periodic:
        periodic.request("a/")
        while not periodic._asked.is_set():
            await asyncio.sleep(0)
        scans.gate.set()
        await _until(scans, 1)
        for prefix in ("b/", "b/c/", "d/", "b/"):
            periodic.request(prefix)
        await _until(scans, 3)
    assert scans.done == ["a/", "b/", "d/"]


async def test_a_failed_scoped_scan_is_repeated() -> None:
    """With its own prefix, not as a whole one."""
    scans = _Scans(failures=2)
    scans.gate.set()
    async with _running(scans) as periodic:
        periodic.request("a/")
        await _until(scans, 3)
    assert (scans.done, periodic.failures) == (["a/"] * 3, 0)


async def test_a_failed_scoped_scan_is_repeated_whatever_became_of_its_neighbour() -> None:
    """What was scanned after it and went well is no word about it: status tells the failure until it is made good."""
    scans = _Scans(bad={"a/"})
    async with _running(scans) as periodic:
        for prefix in ("a/", "b/"):
            periodic.request(prefix)
        scans.gate.set()
        await _until(scans, 2)
        assert (periodic.failures, periodic.last_error) == (1, "VAST is busy")
        await _until(scans, 3)
    assert (scans.done, periodic.failures, periodic.last_error) == (["a/", "b/", "a/"], 0, "")


async def test_help_that_nobody_needs_any_more_is_no_scan() -> None:
    """Another's scan that ended before we came to it is not begun again."""
    scans = _Scans(plan=True)
    scans.gate.set()
    async with _running(scans) as periodic:
        await periodic.lend_a_hand()
        scans.plan = False
        while periodic._asked.is_set():
            await asyncio.sleep(0)
        periodic.request("a/")
        await _until(scans, 1)
        scans.plan = True
        await periodic.lend_a_hand()
        await _until(scans, 2)
    assert scans.done == ["a/", ""]


async def test_scoped_scans_do_not_put_off_the_whole_one() -> None:
    """However many are asked for, the whole scan comes when it is due."""
    scans = _Scans()
    scans.gate.set()
    async with _running(scans, interval_seconds=0.05) as periodic, asyncio.timeout(10):
        while "" not in scans.done:
            periodic.request("a/")
            await asyncio.sleep(0)
    assert "a/" in scans.done


async def test_another_process_asks_through_the_state() -> None:
    """Its wish is heard once, and dropped when it is fulfilled."""
    scans = _Scans()
    scans.gate.set()
    await wanted.ask(scans.state, "a/b/", now_us=1)
    async with _running(scans) as periodic:
        for _ in range(3):
            await periodic.request_asked()
        await _until(scans, 1)
        async with asyncio.timeout(10):
            while await wanted.asked(scans.state):
                await asyncio.sleep(0)
        await periodic.request_asked()
        periodic.request("last/")
        await _until(scans, 2)
    assert scans.done == ["a/b/", "last/"]


async def test_many_wishes_become_one_for_the_whole_pair() -> None:
    """What is kept stays bounded, and nothing that was asked for is left out."""
    state = MemoryState("pair", shards=1, clock=SystemClock())
    for number in range(2 * wanted.MOST_WISHES):
        await wanted.ask(state, f"dir{number}/", now_us=number)
    wishes = await wanted.asked(state)
    assert (len(wishes), "" in wishes) == (wanted.MOST_WISHES + 1, True)


async def test_a_wish_repeated_during_its_scan_stays() -> None:
    """The scan may have passed the place already."""
    state = MemoryState("pair", shards=1, clock=SystemClock())
    for at, prefix in enumerate(["a/", "a/x/", "b/"]):
        await wanted.ask(state, prefix, now_us=at)
    wishes = await wanted.asked(state)
    await wanted.ask(state, "a/x/", now_us=99)
    await wanted.fulfil(state, wishes, "a/")
    assert set(await wanted.asked(state)) == {"a/x/", "b/"}


@pytest.mark.parametrize("prefix", [".federation/", ".federation/conflicts/", ".snapshot/", ".vast"])
async def test_what_is_never_synchronised_is_never_scanned(prefix: str) -> None:
    """Whoever asks for it; a wish of a source for it is dropped as fulfilled, and not tried for ever."""
    from tests.unit.world import World  # noqa: PLC0415 - few tests need it

    world = World()
    await world.write(Side.BLOB, f"{prefix}x/a", "x", told=False)
    await world.write(Side.VAST, f"{prefix}x/b", "y", told=False)
    scanner = Scanner(dict(world.ctx.stores), world.state, world.state, world.clock, quiet_us=0, tombstone_us=1)
    await wanted.ask(world.state, prefix, now_us=1)
    scans = PeriodicScan(scanner, world.clock, 3600.0, on_start=False)
    await scans.once(prefix)
    assert (scans.failures, await wanted.asked(world.state)) == (0, {})
    assert (await scanner.scan_keys([f"{prefix}x/a"])).complete
    whole = [one async for one in scanner.differences(Report(started_us=1, prefix=prefix))]
    given = [one async for one in scanner.differences(keys=[f"{prefix}x/b"])]
    assert (whole, given, await world.state.dirty_keys(limit=9)) == ([], [], [])


@pytest.mark.parametrize("prefix", ["", ".", ".fed", ".snapshot"])
async def test_a_scan_of_a_prefix_that_also_begins_names_of_the_plane_is_of_the_users_keys(prefix: str) -> None:
    """These are legal; what is never synchronised is left out of their listings."""
    from tests.unit.world import World  # noqa: PLC0415 - few tests need it

    world = World()
    users = [".federated", ".snapshots"]
    for key in [".federation/x", ".snapshot/x", ".snapshot", ".vast_trash", *users]:
        await world.write(Side.BLOB, key, "x", told=False)
    scanner = Scanner(dict(world.ctx.stores), world.state, world.state, world.clock, quiet_us=0, tombstone_us=1)
    assert (await scanner.scan(prefix=prefix)).complete
    assert sorted(await world.state.dirty_keys(limit=9)) == [key for key in users if key.startswith(prefix)]


async def test_a_scan_below_a_prefix_concludes_nothing_about_the_rest() -> None:
    """A side that holds nothing there does not halt the pair."""
    from tests.unit.world import World  # noqa: PLC0415 - one test needs it

    world = World()
    await world.write(Side.BLOB, "in/a", "x", told=False)
    await world.write(Side.BLOB, "out/b", "y", told=False)
    scanner = Scanner(dict(world.ctx.stores), world.state, world.state, world.clock, quiet_us=0, tombstone_us=1)
    report = await scanner.scan(prefix="in/")
    assert (report.complete, report.whole, await world.state.dirty_keys(limit=9)) == (True, False, ["in/a"])
