"""``fedplane reconcile`` on a pair that is halted says so, whoever halted it and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, NoReturn

import msgspec
import pytest

from federation.clock import SystemClock
from federation.errors import Halt
from federation.model import Side
from federation.progress import HaltRecord
from federation.wiring import PairRuntime
from fedplane import exit_codes
from fedplane.commands import reconcile
from fedplane.commands.reconcile import Outcome, Part, _status, _text
from fedplane.exit_codes import for_error
from tests.unit.test_abilities import runtime
from tests.unit.world import World

SETTINGS: Any = SimpleNamespace(
    reconcile=SimpleNamespace(range_rows=200_000, parallel_ranges=1), functions=SimpleNamespace(event_grid=False)
)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> tuple[World, PairRuntime]:
    """A pair as the command opens it; its clock goes as ours."""
    world, pair = runtime()
    real = SystemClock()

    @asynccontextmanager
    async def open_pair(*_: object, **__: object) -> AsyncIterator[PairRuntime]:
        yield pair

    for name in ("now_us", "monotonic_seconds", "sleep"):
        monkeypatch.setattr(world.clock, name, getattr(real, name))
    monkeypatch.setattr(reconcile, "open_pair", open_pair)
    monkeypatch.setattr(reconcile, "_LOOK_SECONDS", 0.0)
    return world, pair


async def _reconcile(pair: PairRuntime) -> Outcome:
    async with asyncio.timeout(20):
        return await reconcile._reconcile(SETTINGS, pair.settings, Part("", ()), 3600.0, quiet=True)


def _told(outcome: Outcome, halt: str) -> None:
    assert (_status(outcome), outcome.halts) == (exit_codes.HALTED, [halt])
    assert f"HALTED {halt}: `fedplane status` says why" in _text(outcome)
    assert "a running process did the work" not in _text(outcome)
    assert msgspec.to_builtins(outcome)["halts"] == [halt]


@pytest.mark.parametrize("differences", [0, 3])
async def test_a_halt_that_stood_before_is_told(opened: tuple[World, PairRuntime], differences: int) -> None:
    """Nobody works on what the scan found; also where it found nothing, the pair is halted."""
    world, pair = opened
    for number in range(differences):
        await world.write(Side.BLOB, f"k{number}", "x", told=False)
    await world.state.halt(HaltRecord("write_refused", "no right to write", 1, self_lifting=False))
    outcome = await _reconcile(pair)
    assert (outcome.report.complete, outcome.report.halted, outcome.outstanding) == (True, "", differences)
    _told(outcome, "write_refused")


async def test_a_halt_that_the_work_meets_is_told(opened: tuple[World, PairRuntime]) -> None:
    """It was raised while this process applied what it had found."""
    world, pair = opened
    await world.write(Side.BLOB, "k", "x", told=False)
    put = world.raw[Side.VAST].put

    async def refused(key: str, *args: Any, **named: Any) -> Any:  # noqa: ANN401 - as it is called
        if key == "k":
            raise Halt("no right to write", reason="write_refused", side=Side.VAST)
        return await put(key, *args, **named)

    world.raw[Side.VAST].put = refused  # type: ignore[method-assign]
    outcome = await _reconcile(pair)
    assert outcome.outstanding == 1
    [halt] = [one.name for one in await world.state.halts()]
    _told(outcome, halt)


async def test_a_halt_of_the_scan_is_told_once(opened: tuple[World, PairRuntime]) -> None:
    """As before: with the scan, that is no whole one."""
    world, pair = opened
    await world.write(Side.BLOB, "k", "x", told=False)
    await _reconcile(pair)
    del world.raw[Side.VAST].objects["k"]
    outcome = await _reconcile(pair)
    assert (outcome.report.complete, outcome.report.halted) == (False, "side_emptied_vast")
    _told(outcome, "side_emptied_vast")


async def test_where_nothing_is_halted_the_work_is_done(opened: tuple[World, PairRuntime]) -> None:
    """The same way, to its end."""
    world, pair = opened
    await world.write(Side.BLOB, "k", "x", told=False)
    outcome = await _reconcile(pair)
    assert (_status(outcome), outcome.halts, outcome.outstanding) == (exit_codes.OK, [], 0)
    assert await world.text(Side.VAST, "k") == "x"
    assert "HALTED" not in _text(outcome)


async def test_refused_credentials_halt_what_works_and_are_unreachable_to_what_looks(opened: tuple[World, PairRuntime]) -> None:
    """README, 'Commands': reconcile ends with 4, a verification with 3 though the pair is halted."""
    world, pair = opened

    def refused(*_: object, **__: object) -> NoReturn:
        raise Halt("who are you", reason="credentials_refused", side=Side.VAST)

    await _reconcile(pair)
    world.raw[Side.VAST].list = refused  # type: ignore[method-assign]
    _told(await _reconcile(pair), "credentials_refused")
    with pytest.raises(Halt) as ended:
        await reconcile._verify(SETTINGS, pair.settings, "", as_json=True)
    assert for_error(ended.value) == exit_codes.UNREACHABLE
