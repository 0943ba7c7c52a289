"""One invocation's bounds: it waits for the work it began, cuts off what does not end, and hides no fault."""

from __future__ import annotations

import asyncio

import pytest

from function_app import visit as module
from function_app.visit import MOST_DRAINS, current, visit


async def test_an_invocation_ends_after_its_work() -> None:
    """Also when it fails: what was marked before is worked on."""
    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(1)

    async with visit(10) as during:
        assert current() is during
        during.add(work())

    async def failing() -> None:
        async with visit(10) as during:
            during.add(work())
            raise ValueError("the function failed")

    with pytest.raises(ValueError, match="the function failed"):
        await failing()
    assert (done, current()) == ([1, 1], None)


async def test_what_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task is left when the function returned."""
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.01)
    monkeypatch.setattr(module, "_SLACK_SECONDS", 0.01)
    before = asyncio.all_tasks()
    async with visit(0.01) as during:
        during.add(asyncio.Event().wait())  # type: ignore[arg-type]
    assert asyncio.all_tasks() == before


async def test_a_fault_of_the_work_is_the_invocations() -> None:
    """The host sees it, even if the work had ended before the function did."""

    async def work() -> None:
        raise AssertionError("a fault of ours")

    async def invocation() -> None:
        async with visit(10) as during:
            during.add(work())
            while during._tasks:
                await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="a fault of ours"):
        await invocation()


async def test_it_takes_no_more_than_it_can_end() -> None:
    """Beyond a number of shards, or once the time is over, others are called."""
    free = asyncio.Event()
    async with visit(10) as during:
        for _ in range(MOST_DRAINS):
            assert during.takes_more
            during.add(free.wait())  # type: ignore[arg-type]
        assert not during.takes_more
        free.set()
    async with visit(0) as during:
        assert not during.takes_more


@pytest.mark.parametrize("late", ["the function", "its drains"])
async def test_nothing_runs_on_once_the_sender_waits_no_longer(late: str) -> None:
    """Whether time strikes in the function or while it waits for its drains: these end, although they had time of their own."""
    before = asyncio.all_tasks()

    async def invocation() -> None:
        async with visit(3600, within_seconds=0.01) as during:
            during.add(asyncio.Event().wait())  # type: ignore[arg-type]
            if late == "the function":
                await asyncio.Event().wait()

    if late == "the function":
        with pytest.raises(TimeoutError):
            await invocation()
    else:
        await invocation()
    assert asyncio.all_tasks() == before


async def test_drains_end_with_an_invocation_that_is_cancelled() -> None:
    """Also while it waits for them: nothing outlives it."""
    before = asyncio.all_tasks()
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def invocation() -> None:
        async with visit(3600) as during:
            during.add(work())

    task = asyncio.create_task(invocation())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before
