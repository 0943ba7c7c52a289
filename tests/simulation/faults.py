"""What breaks at a moment of the script's choosing: processes, clocks, the state, a side, the topic."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.simulation.loop import SimLoop
from tests.simulation.processes import Process
from tests.simulation.script import Act

if TYPE_CHECKING:
    from tests.simulation.world import World

_RESTART_SECONDS = 1.0


class Faults:
    """Carries out acts of the ``faults`` of a script."""

    def __init__(self, world: World) -> None:
        self._world = world

    def do(self, act: Act) -> None:
        """One fault."""
        world = self._world
        world.count(act.kind)
        getattr(self, f"_{act.kind}")(act, world.processes.get(act.other) or next(iter(world.processes.values())))

    def _crash(self, act: Act, process: Process) -> None:
        del act
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        loop.kill(process)
        loop.call_later(_RESTART_SECONDS, self._world.start, process.name)

    def _graceful(self, act: Act, process: Process) -> None:
        del act
        if process.stop is None:
            return
        process.stop.set()
        asyncio.get_running_loop().create_task(self._start_when_ended(process))

    async def _start_when_ended(self, process: Process) -> None:
        while not process.ended and not process.dead:
            await asyncio.sleep(0.5)
        if process.ended and self._world.processes.get(process.name) is process:
            self._world.start(process.name)

    def _pause(self, act: Act, process: Process) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        if not process.dead:
            loop.pause(process, act.amount)

    def _jump(self, act: Act, process: Process) -> None:
        process.clock.off_us += int(act.amount * 1_000_000)

    def _state_away(self, act: Act, process: Process) -> None:
        del process
        self._world.box.away_until = asyncio.get_running_loop().time() + act.amount

    def _side_away(self, act: Act, process: Process) -> None:
        del process
        self._world.servers[act.side].away_until = asyncio.get_running_loop().time() + act.amount

    def _tail_lost(self, act: Act, process: Process) -> None:
        del process
        self._world.box.keep()
        asyncio.get_running_loop().call_later(act.amount, self._world.box.fail_over)

    def _flush(self, act: Act, process: Process) -> None:
        del act, process
        self._world.box.flush()

    def _container_gone(self, act: Act, process: Process) -> None:
        del process
        server = self._world.servers[act.side]
        server.missing_container = True
        asyncio.get_running_loop().call_later(act.amount, setattr, server, "missing_container", False)

    def _emptied(self, act: Act, process: Process) -> None:
        del process
        for key, held in list(self._world.servers[act.side].objects.items()):
            self._world.users.supersede(act.side, key, held, how="delete")
            self._world.oracle.user_acts[act.side, key] += 1
            self._world.convergence.act(act.side, key, told=False)
        self._world.servers[act.side].watched.vanish()

    def _retention(self, act: Act, process: Process) -> None:
        del act, process
        self._world.topic.truncate()
        if self._world.feed is not None:
            self._world.feed.retention()

    def _replay(self, act: Act, process: Process) -> None:
        del process
        self._world.deliveries[act.side].replay(int(act.amount))
