"""The oracle of *converged as of*: before the time that status tells nothing is left to do, and at rest it is past everything."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import copy_context
from typing import TYPE_CHECKING

from federation.model import PRESERVED_PREFIX, Mode, Side
from federation.ports import Clock
from operations.status import pair_status
from tests.simulation.loop import UNIT
from tests.simulation.processes import ProcessClock
from tests.simulation.script import PROCESSES
from tests.simulation.sides import START_US
from tests.simulation.values import value_of

if TYPE_CHECKING:
    from tests.simulation.world import World

_EVERY_SECONDS = 10.0
_AFTER_A_SCAN_SECONDS = 0.1


class Convergence:
    """Asks for the pair's status after each scan and every few seconds, as a person would, and compares."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._clock: Clock = ProcessClock()
        self._scanned = asyncio.Event()
        self.acted: dict[str, float] = {}
        """When a user last did anything to a key, on either side."""
        self.told = 0
        """How often a time was told."""
        # A clock that jumps tells nothing; one side may keep what the other does not where that was asked for.
        script = world.script
        sure = all(act.kind != "jump" for act in script.faults)
        self._on = sure and script.mode is Mode.TWO_WAY and not script.deletes_ignored

    def act(self, key: str) -> None:
        """A user changed *key*."""
        if not key.startswith(PRESERVED_PREFIX):
            self.acted[key] = asyncio.get_running_loop().time()

    def scanned(self) -> None:
        """A scan told of itself: from now on the pair may be said to be converged as of its start."""
        self._scanned.set()

    def start(self) -> None:
        """Look until the world ends."""
        context = copy_context()
        context.run(UNIT.set, None)
        asyncio.get_running_loop().create_task(self._watch(), context=context)

    async def _watch(self) -> None:
        while self._on:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._scanned.wait(), _EVERY_SECONDS)
                self._scanned.clear()
                await asyncio.sleep(_AFTER_A_SCAN_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Every key that nobody touched since the time that is told must be equal on both sides."""
        as_of = await self._as_of()
        if as_of is None:
            return
        self.told += 1
        for key, at in self.acted.items():
            if at < as_of and self._differs(key):
                self._world.oracle.fail(f"said to be converged as of {as_of:.3f}, and {key}, changed at {at:.3f}, is not equal")

    async def at_rest(self) -> None:
        """Once everything is equal and was scanned, the time that is told is past the last thing that happened."""
        if not self._on or not self._world.script.scans:
            return
        as_of = await self._as_of()
        last = max(self.acted.values(), default=0.0)
        if as_of is None or as_of < last:
            self._world.oracle.fail(f"at rest, and converged only as of {as_of}: the last change was at {last:.3f}")

    async def _as_of(self) -> float | None:
        """In virtual seconds."""
        state = self._world.box.inner
        state._clock = self._clock
        settings = self._world.settings(PROCESSES[0])
        status = await pair_status(state, settings.pair[0], self._clock.now_us())
        at_us = status.converged_as_of_us
        return (at_us - START_US) / 1e6 if at_us is not None else None

    def _differs(self, key: str) -> bool:
        world, state = self._world, self._world.box.inner
        if key in state._parked or key in state._held or key in world.oracle.concerned:
            return False
        blob, vast = (world.servers[side].objects.get(key) for side in (Side.BLOB, Side.VAST))
        return (value_of(blob) if blob is not None else None) != (value_of(vast) if vast is not None else None)
