"""The lane of large transfers."""

from __future__ import annotations

import asyncio
from contextvars import Context

import pytest

from federation.errors import RetryLater
from federation.sync.bulk import BulkLane, give_way
from tests.unit.test_fairness import _LoopClock


async def test_a_full_lane_gives_appointments_one_after_another() -> None:
    """Who comes too many is told when to come back, each later than the one before, and keeps no place meanwhile."""
    lane = BulkLane(_LoopClock(), running=1, waiting=1)
    gone: list[int] = []
    give_way.set(lambda: gone.append(1))
    inside = lane.turn()
    await asyncio.create_task(inside.__aenter__())  # as another key's work
    waiting = asyncio.create_task(lane.turn().__aenter__())
    await asyncio.sleep(0)
    told = []
    for _ in range(3):
        with pytest.raises(RetryLater) as caught:
            await lane.turn().__aenter__()
        assert caught.value.reason == "bulk_busy"
        told.append(caught.value.after_seconds or 0.0)
    assert 0 < told[0] < told[1] < told[2]
    await inside.__aexit__(None, None, None)
    await asyncio.wait_for(waiting, 1)
    assert len(gone) == 2


async def test_who_was_in_the_lane_is_not_sent_away_when_it_comes_again() -> None:
    """A large object was hashed and its loser kept; others came meanwhile. It waits in line: all of that would be done anew."""
    lane = BulkLane(_LoopClock(), running=1, waiting=0)
    came, go = asyncio.Event(), asyncio.Event()

    async def other() -> None:
        async with lane.turn():
            came.set()
            await go.wait()

    others = asyncio.create_task(other())
    await came.wait()
    with pytest.raises(RetryLater):
        async with lane.turn():
            pass
    go.set()
    await others
    async with lane.turn():  # hashed
        pass
    go.clear()
    others = asyncio.create_task(other(), context=Context())
    came.clear()
    await came.wait()
    again = asyncio.create_task(lane.turn().__aenter__())
    await asyncio.sleep(0)
    assert not again.done()
    go.set()
    await asyncio.wait_for(again, 1)
