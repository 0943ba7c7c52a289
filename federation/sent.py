"""How many requests one call of a store's port takes: counted where they leave, paid for where the call is paced."""

from __future__ import annotations

from contextvars import ContextVar


class Requests:
    """Of one call: those that left so far."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


current: ContextVar[Requests | None] = ContextVar("sent", default=None)
"""Of the call under way in this task and in those it began."""


def one() -> None:
    """A request leaves."""
    requests = current.get()
    if requests is not None:
        requests.count += 1
