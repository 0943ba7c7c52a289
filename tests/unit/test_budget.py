"""The process-wide byte budget."""

from __future__ import annotations

import asyncio

import pytest

from federation.sync.budget import ByteBudget, FairPool


async def _hold(budget: ByteBudget, size: int, log: list[str], name: str, release: asyncio.Event) -> None:
    async with budget.take(size):
        log.append(name)
        await release.wait()


async def test_budget_is_never_exceeded_and_served_in_order() -> None:
    """What does not fit waits its turn, and a small request does not overtake a large one that came first."""
    budget, log, release = ByteBudget(10), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(_hold(budget, size, log, name, release)) for name, size in (("a", 6), ("b", 8), ("c", 2))]
    await asyncio.sleep(0)

    assert log == ["a"]
    assert budget.free == 4

    release.set()
    await asyncio.gather(*tasks)
    assert log == ["a", "b", "c"]
    assert budget.free == 10


async def test_a_request_above_the_total_gets_the_total() -> None:
    """An object larger than the whole budget still moves, alone."""
    budget = ByteBudget(10)
    async with budget.take(1_000):
        assert budget.free == 0
    assert budget.free == 10


async def test_cancelling_a_waiter_gives_nothing_away() -> None:
    """A cancelled waiter leaves the queue, and those behind it are served."""
    budget, log, release = ByteBudget(10), list[str](), asyncio.Event()
    first = asyncio.create_task(_hold(budget, 9, log, "first", release))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(_hold(budget, 9, log, "waiting", release))
    small = asyncio.create_task(_hold(budget, 1, log, "small", release))
    await asyncio.sleep(0)
    assert log == ["first"]

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert log == ["first", "small"]

    release.set()
    await asyncio.gather(first, small)
    assert budget.free == 10


async def test_cancelling_in_the_tick_of_the_grant_returns_the_bytes() -> None:
    """A grant and a cancellation in the same tick leak nothing."""
    budget = ByteBudget(10)
    gate = budget.take(10)
    await gate.__aenter__()
    waiter = asyncio.create_task(budget.take(5).__aenter__())
    await asyncio.sleep(0)
    await gate.__aexit__(None, None, None)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert budget.free == 10


async def test_a_room_grows_into_what_is_free_and_never_waits() -> None:
    """Also before those who wait for more than is free; not beyond what its kind may hold; and to the total at most."""
    pool = FairPool(10, bulk_share=0.5)
    mine = await pool.room(2)
    assert mine.fit(4)
    assert pool.free == 6
    bulk = await pool.room(4, bulk=True)
    assert not bulk.fit(6), "beyond what its kind may hold"
    other = asyncio.create_task(pool.room(3, of="other"))
    await asyncio.sleep(0)
    assert mine.fit(5)
    assert not mine.fit(7), "one is free"
    assert mine.size == 5
    bulk.close()
    assert (await other).size == 3
    (await other).close()
    assert mine.fit(11)
    assert mine.size == 10, "there is no more"
    mine.close()
    assert pool.free == 10


async def test_units_go_to_the_flows_in_turn() -> None:
    """One flow's long queue does not keep another's first request waiting behind it."""
    pool, log = FairPool(1), list[str]()
    first = await pool.room(1, of="busy")

    async def ask(flow: str, name: str) -> None:
        async with pool.take(1, of=flow):
            log.append(name)

    tasks = [asyncio.create_task(ask("busy", f"busy{number}")) for number in range(5)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(ask("other", "other0")))
    await asyncio.sleep(0)
    first.close()
    await asyncio.gather(*tasks)
    assert log.index("other0") <= 1
    assert pool.free == 1


async def test_bulk_leaves_a_rest_to_the_others() -> None:
    """Parts of large objects hold at most their share; what they ask beyond keeps nobody else waiting."""
    pool = FairPool(8, bulk_share=0.75)
    bulk = [await pool.room(3, of="bulk", bulk=True), await pool.room(3, of="bulk", bulk=True)]
    waiting = asyncio.create_task(pool.room(1, of="bulk", bulk=True))
    small = await asyncio.wait_for(pool.room(2, of="small"), 1)
    assert not waiting.done()
    bulk[0].close()
    (await asyncio.wait_for(waiting, 1)).close()
    small.close()
    bulk[1].close()
    assert pool.free == 8
