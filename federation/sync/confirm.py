"""What is asked right before a write, when it waits for nothing any more (rule 5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

to_confirm: ContextVar[list[Callable[[], Awaitable[None]]]] = ContextVar("to_confirm")
"""What a write of this task asks; see ``confirmed_by``."""


@contextmanager
def confirmed_by(step: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """A write in this block asks *step* once it has its bandwidth and its place, for which it may wait for minutes.

    *step* may raise. What it asks of the same side goes ahead of all who wait (``Gate.inside``).
    """
    held = [step]  # emptied: a connection that is opened meanwhile keeps this context for as long as it is kept
    before = to_confirm.set(held)
    try:
        yield
    finally:
        held.clear()
        to_confirm.reset(before)
