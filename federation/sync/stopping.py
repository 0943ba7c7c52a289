"""End tasks for sure."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

AGAIN_SECONDS = 3.0


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* and wait until they are done, cancelling again those that go on.

    One cancellation is not enough: ``asyncio.wait_for`` of Python 3.11, which redis-py connects with, loses one that comes just
    as its inner task is done. What the tasks raise is for the caller to look at.
    """
    going = set(tasks)
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=AGAIN_SECONDS)


async def together(steps: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of *steps* side by side. One that fails, or a cancellation, ends the others before it is raised, as it came."""
    tasks = [asyncio.create_task(step) for step in steps]
    done: set[asyncio.Task[None]] = set()
    try:
        if tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await end(tasks)
        errors = {task: task.exception() for task in tasks if not task.cancelled()}
    for task in sorted(errors, key=lambda task: task not in done):
        error = errors[task]
        if error is not None:
            raise error
