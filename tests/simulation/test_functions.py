"""No wake-up of the functions app is lost, whatever the order in which its instances do what they do (docs/adr/0014)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from federation.state.memory_state import MemoryState
from tests.simulation.functions import World

SEEDS = 40


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Decisions by the thousand tell nobody anything."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def failing(*, killing: bool, seeds: int = SEEDS) -> list[int]:
    """Seeds of worlds in which something did not come over."""
    return [seed for seed in range(1, seeds + 1) if World(seed, killing=killing).run()]


def test_events_and_doorbells_alone_bring_everything_over() -> None:
    """Instances are frozen whenever no invocation runs; there is no sweep: once no message is left, nothing is left to do."""
    assert failing(killing=False) == []


def test_what_killed_instances_leave_is_found_by_the_sweep() -> None:
    """Within two minutes and a lease of the last delivery."""
    assert failing(killing=True) == []


def test_instances_are_killed_in_these_worlds() -> None:
    """So that the test above is one."""
    worlds = [World(seed, killing=True) for seed in range(1, 20)]
    for world in worlds:
        world.run()
    assert sum(world.kills for world in worlds) > 20


def test_without_the_look_after_the_release_something_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deliberate defect: who found the shard taken relied on that look."""

    async def nothing(*_: object) -> dict[int, int]:
        return {}

    monkeypatch.setattr(MemoryState, "waiting", nothing)
    assert failing(killing=False) != []
