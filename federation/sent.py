"""How many requests one call of a store's port takes: counted where they leave, for whom the call is paced."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar


class Requests:
    """Of one call: those that left so far. *more* is called for each but the first, which is paid for before the call."""

    __slots__ = ("_more", "count")

    def __init__(self, more: Callable[[], None]) -> None:
        self.count = 0
        self._more = more

    def one(self) -> None:
        """A request leaves."""
        self.count += 1
        if self.count > 1:
            self._more()


current: ContextVar[Requests | None] = ContextVar("sent", default=None)
"""Of the call under way in this task and in those it began."""


def one() -> None:
    """A request leaves."""
    requests = current.get()
    if requests is not None:
        requests.one()
