"""The oracle of what status tells: *converged as of*, before which nothing is left to do, and lag."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import copy_context
from typing import TYPE_CHECKING

from federation.model import PRESERVED_PREFIX, Mode, Side
from federation.ports import Clock
from operations.status import PairStatus, pair_status
from tests.simulation.feed import HOUR_SECONDS
from tests.simulation.loop import UNIT
from tests.simulation.processes import ProcessClock
from tests.simulation.script import PROCESSES
from tests.simulation.sides import SKEW_ERROR_US, START_US
from tests.simulation.values import Value, value_of

if TYPE_CHECKING:
    from tests.simulation.world import World

_EVERY_SECONDS = 10.0
_AFTER_A_SCAN_SECONDS = 0.1
_CATCH_UP_SECONDS = 5.0 * HOUR_SECONDS
"""Of a quiet world without scans: the hour of the last change ends, a late one after it opens, and it is read."""


class Convergence:
    """Asks for the pair's status after each scan and every few seconds, as a person would, and compares."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._clock: Clock = ProcessClock()
        self._scanned = asyncio.Event()
        self.acted: dict[tuple[Side, str], float] = {}
        """When a user last did anything to a key on that side."""
        self._untold: set[tuple[Side, str]] = set()
        """What went in a way of which no source tells, though it should."""
        # A clock that jumps tells nothing.
        self._on = all(act.kind != "jump" for act in world.script.faults)

    def act(self, side: Side, key: str, *, told: bool = True) -> None:
        """A user changed *key* on *side*."""
        if not key.startswith(PRESERVED_PREFIX):
            self.acted[side, key] = asyncio.get_running_loop().time()
            if not told:
                self._untold.add((side, key))

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
        """Every key that nobody touched since the time that is told must be equal on both sides; of a direction, on one side."""
        status = await self._status()
        self._lag(status)
        as_of = _seconds(status.converged_as_of_us)
        if as_of is not None:
            self._world.exercised["converged as of told"] += 1
            for key in {key for _, key in self.acted} - {key for _, key in self._untold}:
                self._equal(key, max(self.acted.get((side, key), 0.0) for side in Side), as_of, "both sides")
        for side in Side:
            as_of = _seconds(status.directions[f"{side}_to_{side.other}"].converged_as_of_us)
            if as_of is None:
                continue
            self._world.exercised["direction converged as of told"] += 1
            for (acted_on, key), at in self.acted.items():
                if acted_on is side and (side.other, key) not in self.acted and (side, key) not in self._untold:
                    self._equal(key, at, as_of, f"{side} to {side.other}")

    def _equal(self, key: str, at: float, as_of: float, what: str) -> None:
        # A change with no event while our write of what was before is on its way, and a whole scan: the next one finds it.
        slow = [server.slow.get(key, (0.0, 0.0)) for server in self._world.servers.values()]
        if any(sent < at and as_of < arrived for sent, arrived in slow):
            return
        if at < as_of - SKEW_ERROR_US / 1e6 and self._differs(key, as_of):
            self._world.oracle.fail(f"said to be converged as of {as_of:.3f} ({what}): {key}, changed at {at:.3f}, is not equal")

    def _lag(self, status: PairStatus) -> None:
        """What is told of a direction's lag is no less than the age of the oldest change that is marked and not yet applied."""
        if not any(beat.fresh(status.at_us) for beat in status.processes):
            return  # then nobody knows the sides' clocks
        world = self._world
        for side in Side:
            told = status.directions[f"{side}_to_{side.other}"]
            oldest_us = world.progress.oldest_us(side)
            if oldest_us is None or told.at_least_seconds is None:
                continue
            world.exercised["lag told" if told.lag_seconds is not None else "least lag told"] += 1
            drifted_us = abs(world.script.drift_ppm[side]) * asyncio.get_running_loop().time()
            true_us = status.at_us - (oldest_us - world.servers[side].clock.ahead_us())
            if told.at_least_seconds * 1e6 < true_us - 2 * SKEW_ERROR_US - drifted_us - 1000:
                world.oracle.fail(
                    f"lag of {side} told too small: {told.at_least_seconds} s, and a change of {true_us / 1e6:.3f} s ago waits"
                )

    async def at_rest(self) -> None:
        """Once everything is equal and was scanned, the time that is told is past the last thing that happened."""
        if not self._on:
            return
        script = self._world.script
        if script.scans:
            self._past(_seconds((await self._status()).converged_as_of_us), list(Side))
        elif script.scan_at_start:
            await self._caught_up()

    async def _caught_up(self) -> None:
        """By the change feed alone: once its hours have passed."""
        loop = asyncio.get_running_loop()
        last = max((at for (side, _), at in self.acted.items() if side is Side.BLOB), default=0.0)
        deadline = loop.time() + _CATCH_UP_SECONDS
        while True:
            as_of = _seconds((await self._status()).directions["blob_to_vast"].converged_as_of_us)
            if loop.time() > deadline or (as_of is not None and as_of >= last):
                return self._past(as_of, [Side.BLOB])
            await asyncio.sleep(_AFTER_A_SCAN_SECONDS * 50)

    def _past(self, as_of: float | None, sides: list[Side]) -> None:
        last = max((at for (side, _), at in self.acted.items() if side in sides), default=0.0)
        if as_of is None or as_of < last:
            self._world.oracle.fail(f"at rest, and converged only as of {as_of}: the last change was at {last:.3f}")

    async def _status(self) -> PairStatus:
        state = self._world.box.inner
        state._clock = self._clock
        settings = self._world.settings(PROCESSES[0])
        return await pair_status(state, settings.pair[0], self._clock.now_us())

    def _differs(self, key: str, as_of: float) -> bool:
        world, state = self._world, self._world.box.inner
        if key in world.progress.given_up | state._parked.keys() | state._held.keys() or as_of <= world.oracle.concerned.get(
            key, -1.0
        ):
            return False
        if world.script.mode is not Mode.TWO_WAY and not world.script.stamps:
            return False  # our own copy in a zone looks like its users' there
        held = {side: world.servers[side].objects.get(key) for side in Side}
        now = {side: value_of(one) if one is not None else None for side, one in held.items()}
        return not world.oracle.is_equal(key) and not self._may_be_alone(key, now)

    def _may_be_alone(self, key: str, now: dict[Side, Value | None]) -> bool:
        """As the oracle has it at rest; what is to be removed from a read-only zone may wait for a scan besides."""
        oracle, mode = self._world.oracle, self._world.script.mode
        if oracle.kept_alone(key, now):
            return True
        alone = [one for one in Side if now[one] is not None and now[one.other] is None and not mode.writable(one)]
        return any(write.side is one for one in alone for write in oracle.embodied.get((one, key), []))


def _seconds(at_us: int | None) -> float | None:
    """In virtual seconds."""
    return (at_us - START_US) / 1e6 if at_us is not None else None
