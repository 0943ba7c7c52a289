"""A deliberate defect: what it is, and how it is switched in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

from tests.simulation.draw import THEMED_FROM


@dataclass(frozen=True, slots=True)
class Swap:
    """One name replaced."""

    where: Any
    name: str
    what: Any


@dataclass(frozen=True, slots=True)
class Mutant:
    """One defect. ``within``: seeds by which the simulation must have caught it."""

    name: str
    what: str
    swaps: Callable[[], list[Swap]]
    within: int = 400
    first: int = THEMED_FROM
    """Where the hunt begins."""

    @contextmanager
    def on(self) -> Iterator[None]:
        """The engine with this defect."""
        with ExitStack() as stack:
            for swap in self.swaps():
                stack.enter_context(mock.patch.object(swap.where, swap.name, swap.what))
            yield


def everywhere(module: ModuleType, name: str, what: Any) -> list[Swap]:
    """Replace a function in its module and wherever it was imported to."""
    original = getattr(module, name)
    return [
        Swap(other, name, what)
        for other in list(sys.modules.values())
        if other.__name__.startswith(("federation", "reconciler", "fedplane")) and getattr(other, name, None) is original
    ]
